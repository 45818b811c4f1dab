"""Attention on a TPU: no SMs to fill and no splits, but matrix units that only take whole tiles.

A kernel walks the cached tokens of one sequence and stored head after another. Query rows come in whole tiles of 128
lanes, and head dims are padded to the matrix unit, u = 128 or 256 (v6 and later: half of it idles at head dims of 128).
With R = s·γ query rows per stored head, S tokens that a row sees, N matrix units:

    flops = 2·B·H_k·ceil128(R)·S·(ceil_u(d) + ceil_u(d_v))
    t     = t0 + max(bytes / (BW·e_m), flops / (F·e_c)) + t_i·B·H_k/N         bytes: those that must move

Symbols as in `moesim.cost.attention_decode`. Source: "How to Scale Your Model", chapter 2, for the padding; nobody
measured it for the shipped profiles: the numbers are stated defaults, and results say that they are uncalibrated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.attention_decode import decode_bounds
from moesim.cost.attention_prefill import prefill_bounds, tile_work
from moesim.cost.family import Parameter, Rows, Variant
from moesim.hardware.device import Device

LANES = 128
# Starts lie between fitted GPU kernels and the datasheet; t_i is a guess at the fill and drain of one pipeline.
PARAMETERS = {
    "t0": Parameter(7e-6, 1e-6, 2e-4, "s", "fixed time of one launch", spread=1.5),
    "e_m": Parameter(0.7, 0.05, 1.0, "1", "share of datasheet bandwidth reached", spread=0.7),
    "e_c": Parameter(0.5, 0.03, 1.0, "1", "share of the bf16 peak reached", spread=0.7),
    "t_i": Parameter(1e-6, 1e-8, 3e-5, "s", "start and end of one sequence and stored head", spread=1),
}


def _decode(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    return _seconds(device, rows, parameters, rows["visible"], decode_bounds(device, rows)[0])


def _prefill(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    new = rows["new_tokens"]
    _, tokens, _ = tile_work(new, rows["earlier"], rows["window"], np.ones_like(new))
    return _seconds(device, rows, parameters, tokens / new, prefill_bounds(device, rows)[0])


def _seconds(
    device: Device, rows: Rows, parameters: Mapping[str, float], tokens: np.ndarray, memory_s: np.ndarray
) -> np.ndarray:
    p, items = parameters, rows["batch"] * rows["stored_heads"]
    query_rows = rows["heads"] / rows["stored_heads"] * rows["new_tokens"]
    dims = _whole(rows["key_dim"], device.matrix_unit) + _whole(rows["value_dim"], device.matrix_unit)
    compute_s = 2 * items * _whole(query_rows) * tokens * dims / (p["e_c"] * device.peak["bf16"])
    return p["t0"] + np.maximum(memory_s / p["e_m"], compute_s) + p["t_i"] * items / device.cores


def _whole(size: np.ndarray, unit: int = LANES) -> np.ndarray:
    return np.ceil(size / unit) * unit


DECODE = Variant(_decode, PARAMETERS)
PREFILL = Variant(_prefill, PARAMETERS)
