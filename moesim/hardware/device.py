"""One accelerator and what stands around it, as frozen values in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    kind: ``gpu``, ``tpu``, ``wafer`` or ``cpu`` (one process of some threads).
    peak: dense FLOP/s by compute format (``fp32``, ``bf16``, ``fp8``, ``fp4``, ``int8``); missing if not there.
    hbm_bytes, hbm_bytes_per_s: capacity and datasheet bandwidth. cores: SMs (NVIDIA), CUs (AMD), MXUs (TPU), threads
    (CPU). cache_bytes: last-level cache, None where it is not published.
    matrix_unit: rows and columns of a TPU's matrix unit, to which products are padded; None for other devices.
    scale_up_bytes_per_s: what all scale-up links together (NVLink, ICI, xGMI) carry out of the device, one way; None
    where it has none.
    """

    name: str
    kind: str
    peak: Mapping[str, float]
    hbm_bytes: float
    hbm_bytes_per_s: float
    cores: int
    cache_bytes: float | None = None
    scale_up_bytes_per_s: float | None = None
    matrix_unit: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """Host memory per device and the link to it (per direction): bytes, bytes/s, bytes/s.

    launch_s: by software stack, seconds that one eager operator takes to launch from Python (`moesim.cost.launch`).
    """

    memory_bytes: float | None
    memory_bytes_per_s: float | None
    link_bytes_per_s: float | None
    launch_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """Memory behind HBM in which weights can wait: host DRAM, NVMe drives, a pool on CXL. None = not published.

    capacity_bytes: of the whole tier, which `devices` devices share. bytes_per_s: what one of them reads, one way.
    latency_s: from asking for a copy to its first byte, the software's call included. shared_bytes_per_s: what all of
    them together read, where that is less than each by itself.
    """

    name: str
    capacity_bytes: float | None
    bytes_per_s: float | None
    latency_s: float | None
    devices: int = 1
    shared_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """A hardware profile: device, host, fabric, economics and calibration.

    topology: ``{"kind": builder name, **its keyword arguments in SI units}``. watts: chip power; watts_all_in: with its
    share of host, cooling and network. usd_per_hour: rental price of one device. memory_tiers: what offloading may use.
    calibration: the profile's
    ``calibration:`` block, as `moesim.cost.calibration` reads it. unverified: fields whose figure nobody has read in a
    source (marked in the profile).
    """

    name: str
    title: str
    device: Device
    host: Host
    topology: Mapping[str, object]
    watts: float | None = None
    watts_all_in: float | None = None
    usd_per_hour: float | None = None
    memory_tiers: tuple[MemoryTier, ...] = ()
    calibration: Mapping[str, object] = field(default_factory=dict)
    unverified: tuple[str, ...] = ()


def scale_up_rate(topology: Mapping[str, object]) -> float | None:
    """Bytes/s that all scale-up links of a device carry out of it, one way, from `Hardware.topology`; None without.

    Behind switches a link is all of a device's; in a full mesh and in a torus it is the one to each neighbour.
    """
    link = topology.get("link")
    if link is None:
        return None
    if topology["kind"] == "full_mesh":
        return link.bytes_per_s * (topology["domain"] - 1)
    return link.bytes_per_s * (2 * len(topology["pod"]) if topology["kind"] == "torus" else 1)
