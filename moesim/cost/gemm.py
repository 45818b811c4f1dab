"""Dense matrix products on matrix units: out[m, n] = a[m, k] · b[k, n].

A kernel cuts the output into tiles b_m x b_n, one per core at a time, and may split k over s cores. With b bytes per
operand element, BW datasheet HBM bytes/s, F datasheet FLOP/s of the dtype, N cores and k blocks of 128 bytes:

    dram  = (b·(m·k + n·k) + 2·m·n) / (BW·e_m)                            operands and bf16 result once through HBM
    mma   = 2·b_m·b_n·k/s / (F·e_c/N)                                     one tile on one core's matrix unit
    load  = (b_m + b_n)·b·k/s / (c_l·BW/N)                                its operands from the last-level cache
    tile  = (mma⁴ + load⁴ + (t_k·blocks/s)⁴)^¼ + t_w                      t_k: latency of one k block
    waves = x ≤ 1 → 1, else q·ceil(x) + (1 − q)·x,  x = ceil(m/b_m)·ceil(n/b_n)·s / N
    grid  = waves·tile·(1 + h·z/(1 + z)),  z = 2·m·n·k/F / t_p            clocks fall under long products
    t     = min over tiles and splits of (grid^p + dram^p)^(1/p)  [+ t_s + 8·s·m·n/(c_l·BW) if s > 1]
          + t0 + c_a·m·k/BW + c_r·m/N                                     quantising activations to less than bf16
          + [m mod 4 > 0]·t_u                                             scales of a ragged m are copied to alignment
    t     = (t^8 + (t_h + [m mod 4 > 0]·t_u)^8)^(1/8)                     instead, in kernels that wait for their host

Libraries choose tiles in two ways: the fastest of all (cuBLAS heuristics, autotuned kernels), or rows by m alone (the
CUTLASS dispatch of vLLM and SGLang: the next power of two, within limits) and columns freely. Which one, the limits and
whether k is split are discrete choices of a kernel.

Other chips have no tiles that cores share, and nobody measured one here: ``t = t0 + max(dram, 2·m·n·k/(F·e_c))``, on a
TPU with m padded to 8 rows and n and k to its matrix unit, 128 or 256 ("How to Scale Your Model", chapter 2; units
of v6e and v7 are 256 wide). They answer with stated defaults and the widest interval.

Source: a trial that fitted kernel times measured by NVIDIA, published with AIConfigurator 0.12.0 (Apache-2.0); the
ragged term, the smooth maximum and the clock term are ours. Valid for m, n, k from 1 to 65,536. Known error on held-out
shapes: ``reports/validation.md``. Operands that stay in the last-level cache between calls beat the HBM bound by up to
1.3x
(22 of 127,388 rows), which this model does not follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost import cpu
from moesim.cost.calibration import estimate
from moesim.cost.dtypes import formats, peak, table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.family import Family, Parameter, Rows
from moesim.cost.launch import KERNEL_S
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import Precision

_TILES = tuple((bm, bn) for bm in (16, 32, 64, 128, 256) for bn in (32, 64, 128, 256) if bm * bn <= 128 * 256)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_OUTPUT_BYTES = 2.0  # results are written as bf16
_ROWS_PER_TILE_ROW = {"by_rows": 1, "by_half": 2}  # tile_m is the next power of two of m over this
_CHUNK = 512  # rows searched at once: the candidates of a chunk stay in a CPU core's cache


def gemm(
    machine: Machine, m: object, n: object, k: object, *, weights: Precision, activations: Precision,
    quantise: bool = True, sparse_2_4: bool = False,
) -> Cost:  # fmt: skip
    """Cost of out[m, n] = activations[m, k] · weights[k, n]; m, n, k broadcast, rows of m = 0 cost nothing.

    quantise: the kernel's pass over its activations, which tables of narrow dtypes include; False where another kernel
    has quantised them already. sparse_2_4: two of four weights are zero (NVIDIA A100 whitepaper): half the products,
    half the weights with a 2-bit index each, all of the activations. It keeps the dense kernel's efficiencies, which no
    measurement here supports.
    """
    m, n, k = np.broadcast_arrays(*(np.asarray(size, dtype=float) for size in (m, n, k)))
    dtype = table_dtype(weights, activations)
    kept = k / 2 if sparse_2_4 else k
    rows = {"m": np.maximum(m, 1), "n": n, "k": kept, "dtype": dtype, "quantise": float(quantise)}
    cost = estimate(machine, GEMM, rows, {"dtype": dtype})
    unseen_bytes = (k - kept) * (m * activations.bytes + n * 2 / 8)
    some, more = (m > 0).astype(float), unseen_bytes / machine.device.hbm_bytes_per_s
    return Cost(*(some * (seconds + more) for seconds in (cost.seconds, cost.low, cost.high)), cost.limit)


def bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: both operands and the result once through HBM; 2·m·n·k FLOPs at datasheet peak."""
    m, n, k, a_bytes, b_bytes, flops = _operands(device, rows)
    return (a_bytes * m * k + b_bytes * n * k + _OUTPUT_BYTES * m * n) / device.hbm_bytes_per_s, 2 * m * n * k / flops


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top; the tile of each row is searched unless `select` has chosen it."""
    p = parameters
    if device.kind != "gpu":
        return _untiled(device, rows, p)
    m, _, k, a_bytes, _, _ = _operands(device, rows)
    chosen = "tile_m" in rows
    tile_s = (
        _with_dram(device, rows, p, _grid_time(device, rows, p)) if chosen else _search(device, rows, p, choices)[0]
    )
    quantise = np.asarray(rows.get("quantise", 1.0)) * (a_bytes < _OUTPUT_BYTES)
    passed_s = quantise * (p["c_a"] * m * k / device.hbm_bytes_per_s + p["c_r"] * m / device.cores)
    ragged = quantise * np.where(m % 4 > 0, p["t_u"], 0.0)
    seconds = p["t0"] + tile_s + passed_s
    return (seconds**8 + (p["t_h"] + ragged) ** 8) ** 0.125 if choices["host_bound"] else seconds + ragged


def _untiled(device: Device, rows: Rows, p: Mapping[str, float]) -> np.ndarray:
    m, n, k, _, _, flops = _operands(device, rows)
    dram, _ = bounds(device, rows)
    if device.kind == "tpu":
        unit = device.matrix_unit
        m, n, k = (np.ceil(size / whole) * whole for size, whole in ((m, 8), (n, unit), (k, unit)))
    return p["t0"] + np.maximum(dram / p["e_m"], 2 * m * n * k / (flops * p["e_c"]))


def select(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> Rows:
    """The rows with their fastest ``tile_m``, ``tile_n`` and ``split`` at these parameters."""
    if device.kind != "gpu":
        return rows
    tile_m, tile_n, split = _search(device, rows, parameters, choices)[1]
    return dict(rows) | {"tile_m": tile_m, "tile_n": tile_n, "split": split}


def _operands(device: Device, rows: Rows) -> tuple:
    """m, n, k as floats [rows], bytes per element of a and b, and the peak FLOP/s. All rows have one dtype."""
    weights, activations = formats(str(np.asarray(rows["dtype"]).reshape(-1)[0]))
    m, n, k = (np.asarray(rows[column], dtype=float) for column in ("m", "n", "k"))
    return m, n, k, activations.bytes, weights.bytes, peak(device, weights, activations)


def _candidates(choices: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tile_m, tile_n [tiles, 1, 1] and split [1, splits, 1] of everything that the library may run."""
    _, least_m, most_m = choices["tile_m"]
    least_n, most_n = choices["tile_n"]
    tiles = [(bm, bn) for bm, bn in _TILES if least_m <= bm <= most_m and least_n <= bn <= most_n]
    tile_m, tile_n = np.array(tiles, dtype=float).T[:, :, None, None]
    return tile_m, tile_n, np.array(_SPLITS if choices["split_k"] else (1,), dtype=float)[None, :, None]


def _excluded(device: Device, rows: Rows, candidates: tuple, choices: Mapping[str, object]) -> np.ndarray:
    """[tiles, splits, rows] what the library would not run: useless splits, tiles twice the matrix, other rows."""
    tile_m, tile_n, split = candidates
    rule, least_m, most_m = choices["tile_m"]
    m, n, k, _, b_bytes, _ = _operands(device, rows)
    tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split
    idle = (split > 1) & ((split > np.ceil(k * b_bytes / 128)) | (tiles > 2 * device.cores))
    wide = (tile_n >= 2 * n) & (tile_n > choices["tile_n"][0])
    if rule == "fastest":
        return idle | wide | ((tile_m >= 2 * m) & (tile_m > least_m))
    rows_of_tile = 2.0 ** np.ceil(np.log2(m / _ROWS_PER_TILE_ROW[rule]))
    return idle | wide | (tile_m != np.clip(rows_of_tile, least_m, most_m))


def _search(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> tuple[np.ndarray, np.ndarray]:
    """([rows] seconds of the fastest candidate, [3, rows] that candidate)."""
    tile_m, tile_n, split = candidates = _candidates(choices)
    count = len(rows["m"])
    seconds, chosen = np.empty(count), np.empty((3, count))
    for begin in range(0, count, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        some = {c: np.asarray(rows[c])[part] for c in ("m", "n", "k", "dtype")}
        trial = some | {"tile_m": tile_m, "tile_n": tile_n, "split": split}
        grid = np.where(_excluded(device, some, candidates, choices), np.inf, _grid_time(device, trial, parameters))
        tile = np.argmin(grid, axis=0)  # [splits, rows]: beside equal DRAM time, the fastest grid is the fastest kernel
        fastest = np.take_along_axis(grid, tile[None], axis=0)[0]
        by_split = _with_dram(device, some | {"split": split[0]}, parameters, fastest)
        best = np.argmin(by_split, axis=0)
        columns = np.arange(len(best))
        tile = tile[best, columns]
        seconds[part] = by_split[best, columns]
        chosen[:, part] = tile_m[tile, 0, 0], tile_n[tile, 0, 0], split[0, best, 0]
    return seconds, chosen


def _grid_time(device: Device, rows: Rows, parameters: Mapping[str, float]) -> np.ndarray:
    """Seconds that the cores need for all tiles; tile and split columns broadcast against rows."""
    p = parameters
    m, n, k, a_bytes, b_bytes, flops = _operands(device, rows)
    tile_m, tile_n, split = rows["tile_m"], rows["tile_n"], rows["split"]
    cores = device.cores
    block = np.rint(128 / b_bytes)
    blocks = np.ceil(np.ceil(k / block) / split)
    mma = tile_m * tile_n * blocks * (2 * block / (flops * p["e_c"] / cores))
    load = (a_bytes * tile_m + b_bytes * tile_n) * blocks * (block / (p["c_l"] * device.hbm_bytes_per_s / cores))
    tile = np.sqrt(np.sqrt(_fourth(mma) + _fourth(load) + _fourth(p["t_k"] * blocks))) + p["t_w"]
    x = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split / cores
    waves = np.where(x <= 1, 1.0, p["q"] * np.ceil(x) + (1 - p["q"]) * x)
    z = 2 * m * n * k / flops / p["t_p"]
    return waves * tile * (1 + p["h"] * z / (1 + z))


def _with_dram(device: Device, rows: Rows, parameters: Mapping[str, float], grid: np.ndarray) -> np.ndarray:
    """Seconds of tiles and DRAM overlapped, and of the partial sums of a split k."""
    p = parameters
    m, n, k, a_bytes, b_bytes, _ = _operands(device, rows)
    split, bandwidth = rows["split"], device.hbm_bytes_per_s
    dram = (a_bytes * m * k + b_bytes * n * k + _OUTPUT_BYTES * m * n) / (bandwidth * p["e_m"])
    partial_sums = np.where(split > 1, p["t_s"] + 8 * split * m * n / (p["c_l"] * bandwidth), 0.0)
    return (grid ** p["p"] + dram ** p["p"]) ** (1 / p["p"]) + partial_sums


def _fourth(value: np.ndarray) -> np.ndarray:
    square = value * value  # numpy's power of 4 is ten times slower
    return square * square


GEMM = Family(
    name="gemm",
    columns=("hardware", "software", "kernel", "dtype", "m", "n", "k"),
    shape=("n", "k"),
    size="m",
    numeric=("m", "n", "k"),
    # Starts are the middle of the trial's fits over four NVIDIA devices, hence also the defaults of an unmeasured one.
    parameters={
        "t0": Parameter(4e-6, 1e-7, 3e-4, "s", "fixed time of one launch"),
        "e_m": Parameter(0.85, 0.2, 1.0, "1", "share of datasheet bandwidth reached", spread=1),
        "e_c": Parameter(0.75, 0.1, 1.0, "1", "share of datasheet peak reached", spread=1),
        "c_l": Parameter(3.5, 0.5, 30.0, "1", "cache-to-core rate over HBM rate", spread=1),
        "t_k": Parameter(5e-8, 1e-9, 2e-6, "s", "latency of one block of k", spread=2),
        "t_w": Parameter(5e-7, 1e-9, 1e-5, "s", "start and end of one wave", spread=3),
        "t_s": Parameter(3e-6, 5e-7, 5e-5, "s", "extra launch of split-K", spread=2),
        "p": Parameter(2.0, 1.0, 12.0, "1", "overlap of HBM and tiles: 1 none, large perfect", spread=1),
        "q": Parameter(0.3, 0.05, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=1),
        "c_a": Parameter(4.0, 1e-4, 20.0, "bytes", "traffic per activation of the quantisation pass", spread=3),
        "c_r": Parameter(5e-8, 1e-10, 1e-6, "s·core", "time per activation row of that pass", spread=3),
        "t_u": Parameter(1e-7, 1e-9, 3e-4, "s", "extra copy when m is no multiple of 4", spread=3),
        "h": Parameter(0.1, 1e-3, 3.0, "1", "slowdown of endless products by lower clocks", spread=2),
        "t_p": Parameter(
            1e-3, 5e-5, 1e-2, "s", "product at datasheet peak that takes half of that slowdown", spread=0.5
        ),
        "t_h": Parameter(1e-4, 1e-5, 5e-4, "s", "host time per call, hidden under graphs", spread=3),
    },
    predict=predict,
    bounds=bounds,
    choices={
        "tile_m": (
            *(("fastest", least, most) for least, most in ((16, 256), (32, 256), (64, 256), (128, 256))),
            *(("fastest", least, 128) for least in (64, 128)),
            *(("by_rows", least, most) for least, most in ((16, 128), (64, 128), (64, 256))),
            *(("by_half", least, 128) for least in (16, 64)),
        ),
        "tile_n": ((32, 256), (64, 256), (128, 256), (32, 128), (64, 128), (128, 128)),
        "split_k": (False, True),
        "host_bound": (False, True),
    },
    select=select,
    variants={"cpu": cpu.PRODUCT},
    host={"t0": 4e-6, "t_u": KERNEL_S, "t_h": 0.0},
)
