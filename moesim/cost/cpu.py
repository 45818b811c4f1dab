"""CPU processes: what they compute and send, one process of a few threads a device.

A CPU has no tiles, waves or launches, so its equations are shorter than a GPU's. With BW the memory bandwidth and F the
FLOP/s of a process, b bytes per element, and NV the bytes/s that a process sends:

    product      t = t0 + 2·m·n·k / (F·e_c) + n·k·b / (BW·e_p)           weights are packed into a layout first;
                 t = t0 + n·k·b / (BW·e_v)                               at m = 1 they are only read
    experts      t = t0 + t_e·A + t_l·E_l + 6·P·h·f / (F·e_c) + 3·A·h·f·b / (BW·e_m)
                     + 2·(P·(h + f) + T·k·h)·b / (BW·e_a)
    collective   t = t_a + volume / (NV·e_a) · (1 + c·v/(1 + v)), v = volume / v_c
                 volume: bytes that leave a process, V·(R − 1)/R of its buffer V, all-reduce twice that; t_a, e_a and
                 t_r, e_r of all-to-all and all-reduce; messages above v_c leave the caches and pay c times more

with A touched ones of E_l local experts, P token copies that reach them, T own tokens of k choices each, hidden h and
inner width f (4 instead of 6, 2 instead of 3 without a gate). In an eager framework each touched expert costs calls,
t_e, and each local one a look at its counts, t_l.

Source: ours; calls and packing are what oneDNN and torch's grouped product on CPUs show. Starts are rough figures of
one server core with AVX-512. Valid where weights come from memory; known error: `docs/closed-loop.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.dtypes import formats, peak
from moesim.cost.family import Parameter, Rows, Variant
from moesim.hardware.device import Device

_ACTIVATIONS_HELD = 2.0  # an element that a pass writes is read again by the next
Numbers = Mapping[str, float]


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.asarray(rows[name], dtype=float)


def _widths(device: Device, rows: Rows) -> tuple[float, float, float]:
    """Bytes of a weight and of an activation, and FLOP/s."""
    weights, activations = formats(str(np.asarray(rows["dtype"]).reshape(-1)[0]))
    return weights.bytes, activations.bytes, peak(device, weights, activations)


def product(device: Device, rows: Rows, p: Numbers, choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds of dense products."""
    m, n, k = (_column(rows, name) for name in ("m", "n", "k"))
    weight, _, flops = _widths(device, rows)
    stream = n * k * weight / device.hbm_bytes_per_s
    return p["t0"] + np.where(m > 1, 2 * m * n * k / (flops * p["e_c"]) + stream / p["e_p"], stream / p["e_v"])


def experts(device: Device, rows: Rows, p: Numbers, choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds of a rank's local work in a MoE layer."""
    weight, activation, flops = _widths(device, rows)
    hidden, width, pairs, touched = (_column(rows, name) for name in ("hidden_size", "width", "pairs", "touched"))
    matrix = (_column(rows, "gated") + 2) * hidden * width
    own = _column(rows, "tokens") * _column(rows, "top_k") * hidden
    passes = _ACTIVATIONS_HELD * (pairs * (hidden + width) + own) * activation
    return (
        p["t0"]
        + p["t_e"] * touched
        + p["t_l"] * _column(rows, "local_experts")
        + 2 * pairs * matrix / (flops * p["e_c"])
        + (touched * matrix * weight / p["e_m"] + passes / p["e_a"]) / device.hbm_bytes_per_s
    )


def collective(device: Device, rows: Rows, p: Numbers, choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds of a collective over the processes of one machine."""
    ranks, operation = _column(rows, "ranks"), np.asarray(rows["op"]).astype(str)
    width = formats(str(np.asarray(rows["dtype"]).reshape(-1)[0]))[1].bytes
    volume = np.where(operation == "all_reduce", 2, 1) * (ranks - 1) / ranks * _column(rows, "message_elements") * width
    start, wire = sending(p, operation == "alltoall", volume / device.scale_up_bytes_per_s, volume)
    return start + wire


def sending(p: Numbers, exchanges: object, ideal_s: object, volume: object) -> tuple[np.ndarray, np.ndarray]:
    """(fixed seconds, seconds for bytes) of collectives whose volume takes ideal_s at the best rate.

    exchanges: whether it is an all-to-all.
    """
    beyond = volume / p["v_c"]
    slower = (1 + p["c"] * beyond / (1 + beyond)) / np.where(exchanges, p["e_a"], p["e_r"])
    return np.where(exchanges, p["t_a"], p["t_r"]), ideal_s * slower


PRODUCT = Variant(
    product,
    {
        "t0": Parameter(1e-5, 1e-7, 1e-3, "s", "fixed time of one call", spread=2),
        "e_c": Parameter(0.9, 0.1, 1.5, "1", "rate without packing and calls over the best FLOP/s", spread=0.5),
        "e_p": Parameter(0.3, 0.02, 4.0, "1", "packing rate of weights over memory bandwidth", spread=1),
        "e_v": Parameter(0.5, 0.02, 4.0, "1", "reading rate of weights over memory bandwidth", spread=1),
    },
)
EXPERTS = Variant(
    experts,
    {
        "t0": Parameter(2e-4, 1e-6, 1e-2, "s", "fixed time of a layer's calls", spread=2),
        "t_e": Parameter(1e-5, 1e-7, 1e-3, "s", "calls of one touched expert", spread=2),
        "t_l": Parameter(1e-6, 1e-9, 1e-4, "s", "one local expert, touched or not", spread=2),
        "e_c": Parameter(0.8, 0.05, 1.5, "1", "rate without weights and calls over the best FLOP/s", spread=0.5),
        "e_m": Parameter(0.5, 0.02, 4.0, "1", "rate of weights over memory bandwidth", spread=1),
        "e_a": Parameter(0.3, 0.02, 10.0, "1", "rate of passes over memory bandwidth", spread=1),
    },
)
COLLECTIVE = Variant(
    collective,
    {
        "t_a": Parameter(1e-4, 1e-6, 1e-2, "s", "fixed time of an all-to-all", spread=2),
        "t_r": Parameter(2e-4, 1e-6, 1e-2, "s", "fixed time of an all-reduce or all-gather", spread=2),
        "e_a": Parameter(0.8, 0.05, 4.0, "1", "rate of an all-to-all over the best rate", spread=1),
        "e_r": Parameter(0.8, 0.05, 4.0, "1", "rate of an all-reduce or all-gather over the best rate", spread=1),
        "c": Parameter(0.5, 0.01, 20.0, "1", "slowdown of bytes beyond the caches", spread=1.5),
        "v_c": Parameter(2e6, 1e5, 1e8, "bytes", "volume at half of that slowdown", spread=1),
    },
)
