"""Published times of dispatch and combine (DeepEP, TensorRT-LLM, UCCL, pplx, MORI) beside what the kernels' models say.

Times only: published bandwidths of such kernels are logical, they count traffic that never crosses the wire. The layer
is DeepSeek-V3's everywhere (hidden 7,168, top-8 of 256). Tokens choose experts evenly: exactly so where the publisher
says so (TensorRT-LLM's perfect router), else as on average of random choices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from moesim.cost.calibration import machine_for
from moesim.cost.exchange import KERNELS, exchange
from moesim.cost.exchange_kernels import random_copies
from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.network.routes import build_network

HIDDEN, TOP_K, EXPERTS = 7168, 8, 256
_PROFILES = {"H800": "h800", "GB200": "gb200_nvl72", "H100": "h100", "H200": "h200", "B200": "b200", "MI300X": "mi300x",
             "CX-7 NIC": "h100", "EFA NIC": "h200"}  # fmt: skip
_PRECISIONS = {"FP8": "fp8_block", "MXFP8": "mxfp8", "NVFP4": "nvfp4", "nvfp4": "nvfp4"}
_NOTES = {
    "CX-7 NIC": "GPU not stated, taken as H100",
    "EFA NIC": "GPU not stated, taken as H200; EFA is modelled as InfiniBand of its rate",
    "EFA": "EFA is modelled as InfiniBand of its rate",
    "pplx": "another kernel: DeepEP's of the same kind stands in",
    "MORI": "another kernel: DeepEP's of the same kind stands in",
}


def published_exchanges(figures: Iterable[Mapping[str, object]], lookup: Callable[[str], Hardware]) -> pd.DataFrame:
    """One row a published time.

    Columns: id, source, what, hardware, kernel, ranks, tokens, published_s, predicted_s, error, note.
    figures: mappings as of published figures (id, source, kind, hardware, num_devices, precision, batch, software,
    metric, value, unit). error: predicted / published − 1. Figures of other kinds, of times of several kernels together
    and of devices without a profile are left out.
    """
    rows = [row for figure in figures if (row := _row(figure, lookup)) is not None]
    return pd.DataFrame(rows)


def even_copies(ranks: int, tokens: int, level: str, node: np.ndarray, *, perfect: bool) -> np.ndarray:
    """Copies [source, destination] of evenly chosen experts, at the level that a kernel sends.

    perfect: every token's experts lie on different ranks as far as possible; else on average of random choices.
    """
    if level == "expert":
        return np.full((ranks, ranks), tokens * TOP_K / ranks)
    hit = min(ranks, TOP_K) / ranks if perfect else float(_hit(ranks))
    copies = np.full((ranks, ranks), tokens * hit)
    nodes = int(node.max()) + 1
    if level == "rank" or nodes == 1:
        return copies
    size = ranks // nodes
    inside = node[:, None] == node[None, :]
    same_place = np.arange(ranks)[:, None] % size == np.arange(ranks)[None, :] % size
    # A rank sends its own node's copies itself and fans out those that arrive from the same place of other nodes.
    return np.where(inside, tokens * hit * nodes, np.where(same_place, tokens * float(_hit(nodes)), 0.0))


def _hit(parts: int) -> np.ndarray:
    """Chance that one of `parts` equal parts of the experts holds one of a token's random choices."""
    return random_copies(*(np.array(float(n)) for n in (parts, TOP_K, EXPERTS))) / parts


def _row(figure: Mapping[str, object], lookup: Callable[[str], Hardware]) -> dict[str, object] | None:
    metric, software, device = (str(figure[name]) for name in ("metric", "software", "hardware"))
    phase = re.search(r"(dispatch|combine)", metric)
    tokens = re.match(r"(\d+) tokens", str(figure["batch"]))
    scale = {"us": 1e-6, "ms": 1e-3}.get(str(figure["unit"]))
    profile = next((name for text, name in _PROFILES.items() if text in device), None)
    kernel = _kernel(metric, software)
    if figure["kind"] != "collective" or not (phase and tokens and scale and profile and kernel) or "+" in metric:
        return None
    try:
        hardware = lookup(profile)
    except InvalidInput:
        return None
    ranks, count = int(figure["num_devices"]), int(tokens.group(1))
    seconds = _predict(hardware, lookup, kernel, phase.group(1), ranks, count, str(figure["precision"]))
    published = float(figure["value"]) * scale
    notes = [text for key, text in _NOTES.items() if key in device or key in software]
    return {
        "id": figure["id"], "source": figure["source"], "what": metric, "hardware": profile, "kernel": kernel,
        "ranks": ranks, "tokens": count, "published_s": published, "predicted_s": seconds,
        "error": seconds / published - 1, "note": "; ".join([*notes[:2], *_suspect(figure)]),
    }  # fmt: skip


def _suspect(figure: Mapping[str, object]) -> list[str]:
    return ["suspect at its source"] if "SUSPECT" in str(figure.get("note", "")) else []


def _kernel(metric: str, software: str) -> str | None:
    if "one-sided" in metric or "OneSided" in metric:
        return "nvlink_one_sided"
    if "TwoSided" in metric:
        return "nvlink_two_sided"
    if "low-latency" in metric or "decode" in metric or software.startswith("MORI"):
        return "deepep_low_latency"
    return "deepep_normal" if "normal kernel" in metric or "prefill" in metric else None


def _predict(
    hardware: Hardware, lookup: Callable, kernel: str, phase: str, ranks: int, tokens: int, precision: str
) -> float:
    cluster = build_cluster(hardware, ranks)
    perfect = kernel in ("nvlink_one_sided", "nvlink_two_sided")
    copies = even_copies(ranks, tokens, KERNELS[kernel].level, cluster.node, perfect=perfect)
    usual = "fp8_block" if phase == "dispatch" else "bf16"
    wire = usual if precision == "" or phase == "combine" else _PRECISIONS.get(precision, "bf16")
    priced = exchange(
        machine_for(hardware, None, lookup), build_network(cluster), np.arange(ranks),
        copies if phase == "dispatch" else copies.T, kernel=kernel, phase=phase, tokens=np.full(ranks, tokens),
        hidden=HIDDEN, experts=EXPERTS, precision=PRECISIONS[wire],
    )  # fmt: skip
    return float(priced.transfer.alone(np.zeros(ranks)).max())
