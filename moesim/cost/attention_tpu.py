"""Attention on a TPU: no SMs to fill and no splits, but matrix units that only take whole tiles.

A kernel walks the cached tokens of one sequence and stored head after another, and every product is padded to the 128
lanes of the matrix unit: head dims and query rows alike (TPU v2-v5 have 128 x 128 units, v6 and later 256 x 256, whose
extra half idles at head dims of 128; "How to Scale Your Model", chapter 2). With R query rows per stored head:

    flops = 2·B·H_k·ceil128(R)·tokens·(ceil128(d) + ceil128(d_v))
    t     = t0 + max(bytes / (BW·e_m), flops / (F·e_c)) + t_i·B·H_k/N

No TPU kernel is in the measured tables: the numbers are stated defaults, and results say that they are uncalibrated.
"""

from __future__ import annotations

import numpy as np

from moesim.cost.fitting import Rows
from moesim.hardware.device import Device

LANES = 128
_MEMORY_SHARE = 0.7  # stated defaults: between fitted GPU kernels and the datasheet
_COMPUTE_SHARE = 0.5
_PIPELINE_S = 1e-6  # filling and draining the pipeline of one sequence and head


def tpu_seconds(device: Device, rows: Rows, fixed_s: float, tokens: np.ndarray, memory_s: np.ndarray) -> np.ndarray:
    """[rows] seconds. tokens: seen by a query row on average; memory_s: bytes that must move, at datasheet rate."""
    query_rows = rows["heads"] / rows["stored_heads"] * rows["new_tokens"]
    dims = _whole_tiles(rows["key_dim"]) + _whole_tiles(rows["value_dim"])
    items = rows["batch"] * rows["stored_heads"]
    flops = 2 * items * _whole_tiles(query_rows) * tokens * dims
    compute_s = flops / (_COMPUTE_SHARE * device.peak["bf16"])
    return fixed_s + np.maximum(memory_s / _MEMORY_SHARE, compute_s) + _PIPELINE_S * items / device.cores


def _whole_tiles(size: np.ndarray) -> np.ndarray:
    return np.ceil(size / LANES) * LANES
