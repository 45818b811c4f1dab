"""The routed experts of one TPU: a ragged grouped product, whose tiles follow each other on the matrix units.

Tokens lie sorted by expert, without padding, and a tile that holds the border of two experts is multiplied once for
each of them: an expert costs about one more (partly filled) tile than its tokens, b_m tokens each (a power of two, at
most 512). N and K are padded to the matrix unit, u = 128 or 256; there are no waves, for one program walks all tiles:

    rows = (ceil(P/b_m) + A − 1)·b_m,  b_m = next power of two of P/A in 128 … 512
    t    = t0 + Σ over both products max(2·rows·ceil_u(N)·ceil_u(K) / (F·e_c),  A·N·K·w / (BW·e_m))
           + 2·P·(2·h + (g+1)·f) / (BW·e_a) + t_e·A

Symbols as in `moesim.cost.experts_kernel`. Source: the grouped product of Pallas
(jax.experimental.pallas.ops.tpu.megablox; tiles of 128 to 512 rows) and "How to Scale Your Model", chapter 2, for the
padding. Nobody measured it for the shipped profiles: the numbers are stated defaults, and results say that they are
uncalibrated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.dtypes import peak
from moesim.cost.experts_kernel import formats_of, pass_bytes, weight_bytes
from moesim.cost.family import Parameter, Rows, Variant
from moesim.hardware.device import Device

_LANES = 128
_LARGEST_TILE = 512


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top."""
    p = parameters
    weights, activations = formats_of(rows)
    touched = np.maximum(rows["touched"], 1)
    tile_m = np.clip(2.0 ** np.ceil(np.log2(np.maximum(rows["pairs"] / touched, 1))), _LANES, _LARGEST_TILE)
    multiplied = (np.ceil(rows["pairs"] / tile_m) + touched - 1) * tile_m
    flops, hidden, width = peak(device, weights, activations) * p["e_c"], rows["hidden_size"], rows["width"]
    seconds = p["t0"] + pass_bytes(rows) / (device.hbm_bytes_per_s * p["e_a"]) + p["t_e"] * rows["touched"]
    for n, k in (((rows["gated"] + 1) * width, hidden), (hidden, width)):
        dram = rows["touched"] * n * k * weight_bytes(weights) / (device.hbm_bytes_per_s * p["e_m"])
        unit = device.matrix_unit
        products = 2 * multiplied * np.ceil(n / unit) * np.ceil(k / unit) * unit**2 / flops
        seconds = seconds + np.maximum(products, dram)
    return seconds


EXPERTS = Variant(
    predict,
    {
        "t0": Parameter(10e-6, 1e-6, 3e-4, "s", "fixed time: launches, sort and routing"),
        "e_m": Parameter(0.75, 0.2, 1.0, "1", "share of datasheet bandwidth reached"),
        "e_c": Parameter(0.6, 0.1, 1.0, "1", "share of datasheet peak reached"),
        "e_a": Parameter(0.5, 0.05, 1.0, "1", "bandwidth share of the passes over pairs"),
        "t_e": Parameter(1e-7, 1e-9, 1e-5, "s", "bookkeeping per touched expert"),
    },
)
