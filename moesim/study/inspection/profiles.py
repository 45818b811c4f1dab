"""What ``moesim profiles`` shows: the shipped hardware side by side, or one profile with the source of each figure."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import pandas as pd

from moesim.hardware.device import Hardware
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.topology import Cluster, injection_bandwidth
from moesim.spec.hardware.profile import Profile, load_profile
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, read

FORMATS = ("bf16", "fp8", "fp4", "int8")
_SCALE_UP = ("nvlink", "xgmi", "ici", "pcie")


def profiles_table() -> pd.DataFrame:
    """One row a shipped profile, by name. A figure that the profile does not state is NaN.

    Peaks are dense FLOP/s. scale_up_bytes_per_s: out of one device into all its scale-up links; nic_bytes_per_s: out of
    its NIC; both one way. calibration: ``measured``, ``like NAME`` or ``defaults``. unverified: how many figures nobody
    has read in a source.
    """
    return pd.DataFrame([_row(load_profile(name)) for name in library.names("hardware")]).set_index("profile")


def profile_sheet(name_or_path: str | Path) -> pd.DataFrame:
    """One row a figure of a profile, as it is written: field, value, source (the comment beside or above), unverified.

    Raises InvalidInput with every problem of the file.
    """
    path = library.find("hardware", name_or_path, field="profile")
    document = read(path)
    document.check(Profile)
    lines = path.read_text(encoding="utf-8").splitlines()
    unverified = set(document.data.get("unverified", ()))
    fields = [field for field in _leaves(document) if field[0] not in ("unverified", "calibration")]
    rows = [
        {
            "field": ".".join(map(str, field)),
            "value": _at(document.data, field),
            "source": _comment(lines, document.values[field][0]),
            "unverified": ".".join(map(str, field)) in unverified,
        }
        for field in fields
    ]
    return pd.DataFrame(rows, columns=["field", "value", "source", "unverified"])


def drawn_devices(hardware: Hardware) -> int:
    """A size that shows the fabric: one scale-up domain, one cube of a torus, or a whole 2-D pod."""
    topology = hardware.topology
    if "domain" in topology:
        return topology["domain"]
    if "pod" in topology:
        return topology["cube"] ** len(topology["pod"]) if topology["cube"] else prod(topology["pod"])
    return sum(kind == "device" for kind in topology["nodes"].values()) if "nodes" in topology else 1


def _row(hardware: Hardware) -> dict[str, object]:
    device = hardware.device
    cluster = build_cluster(hardware, drawn_devices(hardware))
    scale_out = hardware.topology.get("scale_out")
    nic = scale_out.nic if scale_out else hardware.topology.get("nic")
    like = hardware.calibration.get("like")
    return {
        "profile": hardware.name,
        "title": hardware.title,
        "kind": device.kind,
        **{f"{name}_flops_per_s": device.peak.get(name) for name in FORMATS},
        "hbm_bytes": device.hbm_bytes,
        "hbm_bytes_per_s": device.hbm_bytes_per_s,
        "cores": device.cores,
        "cache_bytes": device.cache_bytes,
        "topology": hardware.topology["kind"],
        "scale_up_devices": cluster.ranks,
        "scale_up_bytes_per_s": _scale_up(cluster),
        "nic_bytes_per_s": nic.bytes_per_s if nic else None,
        "watts": hardware.watts,
        "watts_all_in": hardware.watts_all_in,
        "usd_per_hour": hardware.usd_per_hour,
        "calibration": f"like {like}" if like else "measured" if hardware.calibration else "defaults",
        "unverified": len(hardware.unverified),
    }


def _scale_up(cluster: Cluster) -> float | None:
    """Bytes/s out of one device into its scale-up links, one way."""
    total = sum(injection_bandwidth(cluster, kind) for kind in _SCALE_UP)
    return total / cluster.ranks or None


def _leaves(document: Document) -> Iterator[tuple[str | int, ...]]:
    """Paths of scalars and lists, in the order of the file."""
    for field in document.values:
        if field and not isinstance(_at(document.data, field), dict) and not isinstance(field[-1], int):
            yield field


def _at(data: object, field: tuple[str | int, ...]) -> object:
    for part in field:
        data = data[part]
    return data


def _comment(lines: list[str], line: int) -> str:
    """The comment of a line (from 1), or those right above it; the file's own heading is not one."""
    _, mark, beside = lines[line - 1].partition(" # ")
    if mark:
        return beside.strip()
    above = []
    row = line - 2
    while row > 0 and lines[row].lstrip().startswith("# "):
        above.insert(0, lines[row].strip().removeprefix("# "))
        row -= 1
    return " ".join(above)
