"""Collective kernels (NCCL and the custom all-reduces of serving stacks): protocols on top of the bytes on the links.

A group of R ranks works on buffers of V bytes a rank (NCCL's own counting), moves ``volume`` bytes a rank in ``steps``
steps, and NV is the device's scale-up rate (bytes/s, one way). The faster of two protocols runs, with a soft corner:

    volume = V·(R−1)/R, all-reduce twice that; steps = R−1 (R ≤ 8, then with log R), all-reduce twice that
    low    = t0 + t_hop·steps + volume / (NV·e_low)                               ring, flags travel with the data
             custom all-reduce, with T = t0 + t_hop·log2 R: one shot T + (R−1)·V / (NV·e_low), or two 2·T + …
    bulk   = t_bulk + t_bulk_hop·steps + (volume/e_bulk + c·V/R) / NV             c: local copy between buffers
             NVLS (all-reduce of 16-bit values over 8 ranks or more): volume (R+1)/R·V at e_nvls, no copy
    t      = (low^-6 + bulk^-6)^(-1/6); where the host launches one by one (t^8 + t_h^8)^(1/8)

All-to-all has its own e_low and e_bulk and one step: it is sends and receives, not a ring. The operations of one
library share every other number, so that what an all-gather showed also prices a reduce-scatter. t_h belongs to the
host (`moesim.cost.launch`).

Source: the protocols are NCCL's LL and Simple (NCCL documentation and src/graph/tuning.cc) and one- and two-shot of
vLLM's and TensorRT-LLM's custom all-reduce; NVLS counting after NVIDIA's SHARP; fitted to times measured by NVIDIA,
published with AIConfigurator 0.12.0 (Apache-2.0): 1,914 rows, 2 to 8 ranks, 256 B to 1 GB. Known error with (operation,
ranks, dtype) groups held out: median 6.9 %, P90 23 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moesim.cost import cpu
from moesim.cost.dtypes import formats
from moesim.cost.family import Family, Parameter, Rows
from moesim.errors import InvalidInput
from moesim.hardware.device import Device

MEASURED_RANKS = 8  # the largest group of the tables
LEAST_NVLS_RANKS = 8  # the tables show it for 8 ranks and not for 4
_PROTOCOL_POWER, _HOST_POWER = 6.0, 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Protocols:
    """Both protocols of rows, everything [rows].

    *_start_s, *_step_s: seconds once and for each of `steps`. *_wire_s: seconds that bytes take. ideal_s: seconds of
    the ring's volume at the full scale-up rate.
    """

    steps: np.ndarray
    low_start_s: np.ndarray
    low_step_s: float
    low_wire_s: np.ndarray
    bulk_start_s: np.ndarray
    bulk_step_s: float
    bulk_wire_s: np.ndarray
    ideal_s: np.ndarray

    def low_fixed_s(self, steps: np.ndarray) -> np.ndarray:
        """Seconds of the low-latency protocol that do not depend on bytes."""
        return self.low_start_s + self.low_step_s * steps

    def bulk_fixed_s(self, steps: np.ndarray) -> np.ndarray:
        """Seconds of the bandwidth protocol that do not depend on bytes."""
        return self.bulk_start_s + self.bulk_step_s * steps


def protocols(
    device: Device,
    rows: Rows,
    p: Mapping[str, float],
    choices: Mapping[str, object],
    in_switch: bool | np.ndarray | None = None,
) -> Protocols:
    """Both protocols by the equation at the top. in_switch: whether switches may reduce; by default from 8 ranks on."""
    ranks, size, reduces, exchanges, narrow = _columns(rows)
    nv = _scale_up(device)
    volume = np.where(reduces, 2, 1) * (ranks - 1) / ranks * size
    steps = np.where(exchanges, 1.0, np.where(reduces, 2, 1) * _ring_steps(ranks))
    low_share = nv * np.where(exchanges, p["e_low_all_to_all"], p["e_low"])
    low_start, low_step, low_wire = np.full_like(ranks, p["t0"]), p["t_hop"], volume / low_share
    if choices["small"] != "ring":
        low_start, low_step = p["t0"] + p["t_hop"] * np.log2(ranks), 0.0
        one_shot = low_start + (ranks - 1) * size / low_share
        again = 2 * low_start + low_wire if choices["small"] == "shots" else np.inf
        low_wire = (one_shot**-8 + again**-8) ** -0.125 - low_start
    nvls = reduces & ~narrow & (ranks >= LEAST_NVLS_RANKS if in_switch is None else in_switch)
    bulk = volume / np.where(exchanges, p["e_bulk_all_to_all"], p["e_bulk"]) + p["c"] * size / ranks
    bulk = np.where(nvls, (ranks + 1) / ranks * size / p["e_nvls"], bulk) / nv
    start = np.full_like(ranks, p["t_bulk"])
    return Protocols(steps, low_start, low_step, low_wire, start, p["t_bulk_hop"], bulk, volume / nv)


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top."""
    found = protocols(device, rows, parameters, choices)
    low, bulk = found.low_fixed_s(found.steps) + found.low_wire_s, found.bulk_fixed_s(found.steps) + found.bulk_wire_s
    return whole(low, bulk, parameters, choices)


def whole(
    low_s: np.ndarray, bulk_s: np.ndarray, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """Seconds [rows] of the faster protocol, with a soft corner, behind the host's launch where it launches."""
    seconds = (low_s**-_PROTOCOL_POWER + bulk_s**-_PROTOCOL_POWER) ** (-1 / _PROTOCOL_POWER)
    if choices["host_bound"]:
        seconds = (seconds**_HOST_POWER + parameters["t_h"] ** _HOST_POWER) ** (1 / _HOST_POWER)
    return seconds


def bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: bytes that must leave a rank at datasheet rate, with reduction in the switch."""
    ranks, size, reduces, _, _ = _columns(rows)
    share = np.where(reduces, np.where(ranks <= 2, 1.0, (ranks + 1) / ranks), (ranks - 1) / ranks)
    link = share * size / _scale_up(device)
    return link, np.zeros_like(link)


def _columns(rows: Rows) -> tuple[np.ndarray, ...]:
    """ranks and buffer bytes as floats, whether a row reduces, exchanges (all-to-all), and is 8-bit; all [rows]."""
    operation, dtype = (np.asarray(rows[c]).astype(str) for c in ("op", "dtype"))
    names, index = np.unique(dtype, return_inverse=True)
    width = np.array([formats(name)[1].bytes for name in names])[index]
    size = np.asarray(rows["message_elements"], dtype=float) * width
    reduces, exchanges = operation == "all_reduce", operation == "alltoall"
    return np.asarray(rows["ranks"], dtype=float), size, reduces, exchanges, width < 2


def _ring_steps(ranks: np.ndarray) -> np.ndarray:
    """Steps of a ring; beyond the measured 8 ranks they grow with the logarithm, as trees and PAT take over in NCCL."""
    return np.where(ranks <= MEASURED_RANKS, ranks - 1, (MEASURED_RANKS - 1) * np.log2(ranks) / np.log2(MEASURED_RANKS))


def _scale_up(device: Device) -> float:
    if not device.scale_up_bytes_per_s:
        raise InvalidInput(f"{device.name} has no scale-up links; collectives need their rate")
    return device.scale_up_bytes_per_s


# Starts: NCCL on H100 and H200; spread: how far two NVLink generations lie apart.
COLLECTIVE = Family(
    name="collective",
    columns=("hardware", "software", "kernel", "op", "dtype", "ranks", "message_elements"),
    shape=("op", "ranks", "dtype"),
    size="message_elements",
    numeric=("ranks", "message_elements"),
    parameters={
        "t0": Parameter(5e-6, 1e-6, 1e-4, "s", "start of the low-latency protocol", spread=1),
        "t_hop": Parameter(1e-6, 1e-8, 1e-5, "s", "step of the low-latency protocol", spread=1),
        "e_low": Parameter(0.2, 0.02, 1, "", "link share of the low-latency protocol", spread=0.7),
        "e_low_all_to_all": Parameter(0.1, 0.002, 1, "", "the same for all-to-all", spread=1),
        "t_bulk": Parameter(20e-6, 1e-6, 1e-4, "s", "start of the bandwidth protocol", spread=1),
        "t_bulk_hop": Parameter(1.5e-6, 1e-8, 3e-5, "s", "step of the bandwidth protocol", spread=1),
        "e_bulk": Parameter(0.78, 0.3, 1, "", "link share of the bandwidth protocol", spread=0.3),
        "e_bulk_all_to_all": Parameter(0.68, 0.3, 1, "", "the same for all-to-all", spread=0.3),
        "c": Parameter(0.6, 0.01, 4, "", "local copy of a rank's part, in seconds of the scale-up rate", spread=0.7),
        "e_nvls": Parameter(0.6, 0.3, 1, "", "link share of reduction in the switch", spread=0.2),
        "t_h": Parameter(20e-6, 1e-6, 1e-3, "s", "the host's time to launch, where it launches", spread=1),
    },
    predict=predict,
    bounds=bounds,
    choices={"small": ("ring", "one_shot", "shots"), "host_bound": (False, True)},
    group=("hardware", "software", "kernel"),
    variants={"cpu": cpu.COLLECTIVE},
    host={"t_h": 0.0},
)
