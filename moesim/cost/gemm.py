"""Dense matrix products on matrix units: out[m, n] = a[m, k] · b[k, n].

A kernel cuts the output into tiles b_m x b_n, one per core at a time, and may split k over s cores. With b bytes per
operand element, BW datasheet HBM bytes/s, F datasheet FLOP/s of the dtype, N cores and k blocks of 128 bytes:

    dram  = (b·(m·k + n·k) + 2·m·n) / (BW·e_m)                            operands and bf16 result once through HBM
    mma   = 2·b_m·b_n·k/s / (F·e_c/N)                                     one tile on one core's matrix unit
    load  = (b_m + b_n)·b·k/s / (c_l·BW/N)                                its operands from the last-level cache
    tile  = max(mma, load, t_k·blocks/s) + t_w                            t_k: latency of one k block
    waves = x ≤ 1 → 1, else ceil(x) − (1 − q)·(ceil(x) − x),  x = ceil(m/b_m)·ceil(n/b_n)·s / N
    grid  = waves·tile  [+ t_s + 8·s·m·n/(c_l·BW) when s > 1: partial sums]
    t     = t0 + min over tiles and splits of (grid^p + dram^p)^(1/p) + c_a·m·k/BW + c_r·m/N     quantised activations
    t     = (t^8 + t_h^8)^(1/8)                                           only kernels that wait for their host

The library's choice of tile is taken as the best one. Source: the trial described in the measurements' notes, fitted to
kernel times measured by NVIDIA, published with AIConfigurator 0.12.0 (Apache-2.0). Valid for m, n, k from 1 to 65,536.
Known error on held-out shapes: see ``reports/validation.md``; operands that stay in the last-level cache between calls
beat the HBM bound by up to 1.3x (22 of 127,388 rows), which this model does not follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.calibration import estimate
from moesim.cost.dtypes import formats, peak, table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.fitting import Family, Parameter, Rows
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import Precision

_TILES = tuple((bm, bn) for bm in (16, 32, 64, 128, 256) for bn in (32, 64, 128, 256) if bm * bn <= 128 * 256)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_OUTPUT_BYTES = 2.0  # results are written as bf16
_CHUNK = 512  # rows searched at once: the candidates of a chunk stay in a CPU core's cache


def gemm(machine: Machine, m: object, n: object, k: object, *, weights: Precision, activations: Precision) -> Cost:
    """Cost of out[m, n] = activations[m, k] · weights[k, n]; m, n, k broadcast, rows of m = 0 cost nothing."""
    m, n, k = np.broadcast_arrays(*(np.asarray(size, dtype=float) for size in (m, n, k)))
    dtype = table_dtype(weights, activations)
    cost = estimate(machine, GEMM, {"m": np.maximum(m, 1), "n": n, "k": k, "dtype": dtype}, {"dtype": dtype})
    some = (m > 0).astype(float)
    return Cost(cost.seconds * some, cost.low * some, cost.high * some, cost.limit)


def bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: both operands and the result once through HBM; 2·m·n·k FLOPs at datasheet peak."""
    m, n, k, a_bytes, b_bytes, flops = _operands(device, rows)
    return (a_bytes * m * k + b_bytes * n * k + _OUTPUT_BYTES * m * n) / device.hbm_bytes_per_s, 2 * m * n * k / flops


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top; the tile of each row is searched unless `select` has chosen it."""
    p = parameters
    m, _, k, _, _, _ = _operands(device, rows)
    tile_s = _tile_time(device, rows, p, choices) if "tile_m" in rows else _search(device, rows, p, choices)[0]
    seconds = p["t0"] + tile_s + p["c_a"] * m * k / device.hbm_bytes_per_s + p["c_r"] * m / device.cores
    return (seconds**8 + p["t_h"] ** 8) ** 0.125 if choices["host_bound"] else seconds


def select(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> Rows:
    """The rows with their fastest ``tile_m``, ``tile_n`` and ``split`` at these parameters."""
    tile_m, tile_n, split = _search(device, rows, parameters, choices)[1]
    return dict(rows) | {"tile_m": tile_m, "tile_n": tile_n, "split": split}


def _operands(device: Device, rows: Rows) -> tuple:
    """m, n, k as floats [rows], bytes per element of a and b, and the peak FLOP/s. All rows have one dtype."""
    weights, activations = formats(str(np.asarray(rows["dtype"]).reshape(-1)[0]))
    m, n, k = (np.asarray(rows[column], dtype=float) for column in ("m", "n", "k"))
    return m, n, k, activations.bytes, weights.bytes, peak(device, weights, activations)


def _candidates(choices: Mapping[str, object]) -> np.ndarray:
    """[3, candidates, 1] tile_m, tile_n and split of everything that the library may run."""
    least_m, least_n = choices["smallest_tile"]
    splits = _SPLITS if choices["split_k"] else (1,)
    some = [(bm, bn, s) for bm, bn in _TILES if bm >= least_m and bn >= least_n for s in splits]
    return np.array(some, dtype=float).T[:, :, None]


def _search(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> tuple[np.ndarray, np.ndarray]:
    """([rows] seconds of the fastest candidate, [3, rows] that candidate)."""
    tile_m, tile_n, split = candidates = _candidates(choices)
    least_m, least_n = choices["smallest_tile"]
    count = len(rows["m"])
    seconds, chosen = np.empty(count), np.empty((3, count))
    for begin in range(0, count, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        some = {c: np.asarray(rows[c])[part] for c in ("m", "n", "k", "dtype")}
        m, n, k, _, b_bytes, _ = _operands(device, some)
        trial = some | {"tile_m": tile_m, "tile_n": tile_n, "split": split}
        tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split
        idle = (split > 1) & ((split > np.ceil(k * b_bytes / 128)) | (tiles > 2 * device.cores))
        wasteful = ((tile_m >= 2 * m) & (tile_m > least_m)) | ((tile_n >= 2 * n) & (tile_n > least_n))
        all_seconds = np.where(idle | wasteful, np.inf, _tile_time(device, trial, parameters, choices))
        best = np.argmin(all_seconds, axis=0)
        seconds[part] = all_seconds[best, np.arange(len(best))]
        chosen[:, part] = candidates[:, best, 0]
    return seconds, chosen


def _tile_time(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """Seconds of the tiled product without its fixed time; tile columns broadcast against rows."""
    p = parameters
    m, n, k, a_bytes, b_bytes, flops = _operands(device, rows)
    tile_m, tile_n, split = rows["tile_m"], rows["tile_n"], rows["split"]
    cores, bandwidth = device.cores, device.hbm_bytes_per_s
    block = np.rint(128 / b_bytes)
    blocks = np.ceil(np.ceil(k / block) / split)
    dram = (a_bytes * m * k + b_bytes * n * k + _OUTPUT_BYTES * m * n) / (bandwidth * p["e_m"])
    mma = 2 * tile_m * tile_n * blocks * block / (flops * p["e_c"] / cores)
    load = (a_bytes * tile_m + b_bytes * tile_n) * blocks * block / (p["c_l"] * bandwidth / cores)
    x = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split / cores
    waves = np.where(x <= 1, 1.0, np.ceil(x) - (1 - p["q"]) * (np.ceil(x) - x))
    grid = waves * (np.maximum(np.maximum(mma, load), p["t_k"] * blocks) + p["t_w"])
    partial_sums = np.where(split > 1, p["t_s"] + 8 * split * m * n / (p["c_l"] * bandwidth), 0.0)
    return (grid ** p["p"] + dram ** p["p"]) ** (1 / p["p"]) + partial_sums


GEMM = Family(
    name="gemm",
    columns=("hardware", "software", "kernel", "dtype", "m", "n", "k"),
    shape=("n", "k"),
    size="m",
    numeric=("m", "n", "k"),
    # Starts are the middle of the trial's fits over four NVIDIA devices, hence also the defaults of an unmeasured one.
    parameters={
        "t0": Parameter(3e-6, 1e-7, 3e-4, "s", "fixed time of one launch"),
        "e_m": Parameter(0.85, 0.2, 1.0, "1", "share of datasheet bandwidth reached", spread=1),
        "e_c": Parameter(0.75, 0.1, 1.0, "1", "share of datasheet peak reached", spread=1),
        "c_l": Parameter(3.5, 0.5, 30.0, "1", "cache-to-core rate over HBM rate", spread=1),
        "t_k": Parameter(5e-8, 1e-9, 2e-6, "s", "latency of one block of k", spread=2),
        "t_w": Parameter(5e-7, 1e-9, 1e-5, "s", "start and end of one wave", spread=3),
        "t_s": Parameter(3e-6, 5e-7, 5e-5, "s", "extra launch of split-K", spread=2),
        "p": Parameter(2.0, 1.0, 12.0, "1", "overlap of HBM and tiles: 1 none, large perfect", spread=1),
        "q": Parameter(0.3, 0.05, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=1),
        "c_a": Parameter(0.5, 1e-4, 20.0, "bytes", "traffic per activation of the quantisation pass", spread=3),
        "c_r": Parameter(1e-8, 1e-10, 1e-6, "s·core", "time per activation row of that pass", spread=3),
        "t_h": Parameter(1e-4, 1e-5, 5e-4, "s", "host time per call, hidden under graphs", spread=3),
    },
    predict=predict,
    bounds=bounds,
    choices={
        "smallest_tile": ((16, 32), (32, 64), (64, 64), (16, 128), (128, 64), (64, 128), (128, 128)),
        "split_k": (False, True),
        "host_bound": (False, True),
    },
    select=select,
)
