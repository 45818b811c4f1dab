"""The routed experts of one rank as kernels run them: the equation, its bounds and its parameters.

A rank holds E_l experts and works on P token-expert pairs that touch A of them; expert e has n_e pairs. Its two
grouped products are (N, K) = (2·f, h) and (h, f): hidden h, the rank's part of an expert's inner width f, (f, h)
without a gate. With w and a bytes per weight and activation element, BW datasheet HBM bytes/s, F datasheet FLOP/s, C
cores, and R = (bf16 peak in FLOP/s)/300 bytes/s, a rate of the chip's cores and caches, which no HBM makes faster (H100
and H200 share it; it is near the HBM bandwidth of H100 and B200):

    b_m   = the kernel's tile of tokens, one size for all experts (below);  tiles = Σ_e ceil(n_e / b_m)
    x     = tiles·ceil(N/b_n) / C;  waves = x ≤ 1 → 1, else ceil(x) − (1 − q)·(ceil(x) − x)
    dram  = A·N·K·w / (BW·e_m) · (1 + fill/x)^(1/2)                        weights of the touched experts, once;
                                                                           `fill` waves and fewer leave HBM idle
    mma   = 2·(b_m + 6.5)·b_n·K / (F·e_c/C)                                one tile on one core; 6.5: pipeline fill
    load  = (r·a + b_n·w)·K / (c_l·R/C)                                    its operands, from the last-level cache
            r = (P + pad·(tiles·b_m − P)) / tiles                          token rows of a tile; a padded one counts pad
    grid  = max(waves·((mma^p + load^p)^(1/p) + t_w),  ceil(x/2)·(t_k·K/128·(1 + 3·b_m/128)/4 + t_w))
    t     = t0 + Σ over both products (grid^p_m + dram^p_m)^(1/p_m)
            + 2·P·(2·h + (g+1)·f) / (R·e_a)                                permute, activation, un-permute of own pairs
            + c_t·T·h / BW + 2·c_k·T·k·(h + (g+1)·f) / BW                  passes over all T tokens, all T·k pairs
            + t_s·T·E + t_e·A                                              routing; bookkeeping of an expert

g is 2 with a gate, else 1. T tokens enter the kernel, local or not; under expert parallelism without a dispatch
before it a kernel still sorts and reduces all T·k pairs (Triton and Marlin kernels even write zeros for pairs of
other ranks: c_k).

The tile: kernels choose b_m from the mean load that they *expect*, and on a rank with E_l experts most expect all T·k
pairs to be theirs: the next power of two of T·k/E_l (choice ``tile_load``: local; twice_local and half_local expect
double and half of it; global = T·k/E; best = whichever tile is fastest, as an autotuner finds), clipped to
``smallest_tile`` … ``largest_tile``. Under EP the real load is ep times smaller, and the padding costs up to 2x.

Source: the trial in the measurements' notes, then what residuals showed (``docs/cost-models/experts.md``): kernel times
measured by NVIDIA, published with AIConfigurator 0.12.0 (Apache-2.0). TPUs: `moesim.cost.experts_tpu`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.dtypes import formats, peak
from moesim.cost.family import Parameter, Rows
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS, Precision

TILES = (8, 16, 32, 64, 128, 256)  # tokens of a tile, b_m
_TILES_N = (64, 128, 256)  # output columns of a tile, b_n
_FLOPS_PER_BYTE = 300  # bf16 peak over HBM bandwidth of H100 (295) and B200 (292): a unit, nothing more
_FILL_ROWS = 6.5  # median of fits, 2 to 10
_ACTIVATION_BYTES = 2.0  # between the kernels' passes activations are bf16

# Starts are medians of fits over four NVIDIA devices, hence also the stated defaults of a device that nobody measured.
PARAMETERS = {
    "t0": Parameter(16e-6, 1e-6, 3e-4, "s", "fixed time: launches, sort and routing of one token", spread=1.5),
    "e_m": Parameter(0.92, 0.3, 1.0, "1", "share of datasheet bandwidth reached", spread=0.3),
    "e_c": Parameter(0.9, 0.1, 1.0, "1", "share of datasheet peak reached", spread=0.4),
    "c_l": Parameter(3.4, 0.3, 40.0, "1", "cache-to-core rate over R", spread=0.7),
    "pad": Parameter(1.5, 0.02, 10.0, "1", "loads of a padded row over those of a real one", spread=1.0),
    "t_w": Parameter(1e-6, 1e-8, 2e-5, "s", "start and end of one wave", spread=1.0),
    "t_k": Parameter(1e-7, 1e-8, 5e-6, "s", "latency of 128 steps along K", spread=1.0),
    "fill": Parameter(0.5, 0.01, 4.0, "1", "waves at which HBM is well fed", spread=1.0),
    "p": Parameter(2.5, 1.0, 8.0, "1", "overlap of loads and products: 1 none, large perfect", spread=0.5),
    "p_m": Parameter(2.3, 1.0, 12.0, "1", "overlap of HBM and tiles", spread=0.5),
    "q": Parameter(0.8, 0.05, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=0.3),
    "e_a": Parameter(0.8, 0.03, 4.0, "1", "rate of the passes over own pairs over R", spread=0.8),
    "c_t": Parameter(4.5, 0.1, 100.0, "bytes", "traffic per hidden element of every token that enters", spread=1.0),
    "c_k": Parameter(0.05, 1e-3, 10.0, "1", "passes over all pairs that enter, local or not", spread=1.0),
    "t_s": Parameter(1e-11, 1e-13, 1e-9, "s", "routing time per token that enters and expert to score", spread=1.0),
    "t_e": Parameter(8e-8, 1e-9, 3e-6, "s", "bookkeeping per touched expert", spread=1.0),
}
# Medians of the kernels of one kind, where they differ from that middle.
_GENERATED = {"t0": 14e-6, "t_w": 5e-7, "pad": 2.4, "e_a": 1.0, "c_t": 7.4, "t_s": 8e-12, "fill": 0.36}
_TRITON = {
    "t0": 23e-6,
    "e_c": 0.66,
    "p": 1.7,
    "e_a": 3.6,
    "c_t": 7.8,
    "c_k": 2.7,
    "t_s": 1.3e-11,
    "fill": 2.0,
    "pad": 1.0,
}
_WIDENING = {
    "t0": 3e-5,
    "e_m": 0.8,
    "e_c": 0.56,
    "c_l": 4.3,
    "p": 1.7,
    "p_m": 1.7,
    "q": 0.43,
    "e_a": 0.6,
    "t_e": 4.5e-8,
}
_CUTLASS = {"p": 5.4, "t_w": 1.6e-6, "e_a": 0.3, "c_t": 2.5, "t_s": 1.2e-11, "t_e": 1.3e-7, "fill": 2.0}
CHOICES = {
    "tile_load": ("local", "twice_local", "half_local", "global", "best"),
    "smallest_tile": (8, 16, 32, 64, 128),
    "largest_tile": (128, 64, 256, 32),
    "tile_n": (128, 64, 256),
}
_EXPECTED = {"twice_local": 2.0, "half_local": 0.5}  # over the mean
# What the equation reads: see `moesim.cost.experts_loads.load_columns` for the loads.
COLUMNS = ("hidden_size", "width", "gated", "tokens", "top_k", "local_experts", "experts", "pairs", "touched", "dtype")


def bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: weights of the touched experts once through HBM; FLOPs of the pairs at peak."""
    weights, activations = formats_of(rows)
    matrix = (rows["gated"] + 2.0) * rows["hidden_size"] * rows["width"]
    memory_s = rows["touched"] * matrix * weight_bytes(weights) / device.hbm_bytes_per_s
    return memory_s, 2 * rows["pairs"] * matrix / peak(device, weights, activations)


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top; the tile of each row is searched unless `select` has chosen it."""
    return product_seconds(device, rows, parameters, choices) + _passes(device, rows, parameters)


def product_seconds(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """[rows] seconds of both grouped products, without the passes around them."""
    if "tile_m" in rows:
        return _products(device, rows, parameters, rows["tile_m"], rows["tiles"], rows["tile_n"])
    return np.min([_products(device, rows, parameters, *tile) for tile in _candidates(rows, choices)], axis=0)


def select(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> Rows:
    """The rows with the tile that they run on at these parameters: ``tile_m``, ``tiles`` and ``tile_n``."""
    candidates = _candidates(rows, choices)
    best = np.argmin([_products(device, rows, parameters, *tile) for tile in candidates], axis=0)
    columns = [
        np.stack([np.broadcast_to(part, best.shape) for part in parts]) for parts in zip(*candidates, strict=True)
    ]
    tile_m, tiles, tile_n = (column[best, np.arange(len(best))] for column in columns)
    return dict(rows) | {"tile_m": tile_m, "tiles": tiles, "tile_n": tile_n}


def weight_bytes(weights: Precision) -> float:
    """Bytes per weight with its scales: FP8 blocks of *weights* are 128x128, so their scales weigh next to nothing."""
    return 1.0 + 4 / 128**2 if weights.name == "fp8_block" else weights.bytes


def formats_of(rows: Rows) -> tuple[Precision, Precision]:
    """(weights, activations) of rows, which all have one dtype."""
    return formats(str(np.asarray(rows["dtype"]).reshape(-1)[0]))


def starts(key: Mapping[str, str]) -> Mapping[str, float]:
    """Generic values by kind of kernel, from its name and dtype: where fits begin, and few shapes stay close."""
    kernel, dtype = key.get("kernel", ""), key.get("dtype", "")
    if "trtllm" in kernel or "min_latency" in kernel or dtype.startswith("w4a8"):
        return _GENERATED  # TensorRT-LLM's generated kernels, also in FlashInfer
    if dtype.startswith(("w4a16", "int4")):
        return _WIDENING  # Marlin and others that widen 4-bit weights to bf16
    return _TRITON if "triton" in kernel else _CUTLASS


def _candidates(rows: Rows, choices: Mapping[str, object]) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """(tile_m [rows], tiles [rows], tile_n) of everything that the kernel may run."""
    smallest = choices["smallest_tile"]
    largest = max(smallest, choices["largest_tile"])
    widths = [float(n) for n in _TILES_N if n >= choices["tile_n"]]
    if choices["tile_load"] == "best":
        sizes = [m for m in TILES if smallest <= m <= largest]
        return [(np.float64(m), rows[f"tiles_{m}"], n) for m in sizes for n in widths]
    experts = rows["experts"] if choices["tile_load"] == "global" else rows["local_experts"]
    load = rows["tokens"] * rows["top_k"] / experts * _EXPECTED.get(choices["tile_load"], 1.0)
    step = np.clip(np.ceil(np.log2(np.maximum(load, 1))), np.log2(smallest), np.log2(largest)).astype(int)
    counts = np.stack([rows[f"tiles_{m}"] for m in TILES])[step - 3, np.arange(len(step))]
    return [(2.0**step, counts, n) for n in widths]


def _products(
    device: Device, rows: Rows, parameters: Mapping[str, float], tile_m: np.ndarray, tiles: np.ndarray, tile_n: object
) -> np.ndarray:
    """Seconds of both grouped products on ``tiles`` token tiles of ``tile_m`` rows and ``tile_n`` columns."""
    p = parameters
    weights, activations = formats_of(rows)
    flops = peak(device, weights, activations) * p["e_c"] / device.cores
    cache_rate = p["c_l"] * _chip_bytes_per_s(device) / device.cores
    padded = np.maximum(tiles * tile_m - rows["pairs"], 0)
    loaded_rows = (rows["pairs"] + p["pad"] * padded) / np.maximum(tiles, 1e-9)
    hidden, width = rows["hidden_size"], rows["width"]
    seconds = 0.0
    for n, k in (((rows["gated"] + 1) * width, hidden), (hidden, width)):
        mma = 2 * (tile_m + _FILL_ROWS) * tile_n * k / flops
        load = (loaded_rows * activations.bytes + tile_n * weight_bytes(weights)) * k / cache_rate
        x = np.maximum(tiles * np.ceil(n / tile_n) / device.cores, 1e-9)
        dram = rows["touched"] * n * k * weight_bytes(weights) / (device.hbm_bytes_per_s * p["e_m"])
        dram = dram * np.sqrt(1 + p["fill"] / x)
        waves = np.where(x <= 1, 1.0, np.ceil(x) - (1 - p["q"]) * (np.ceil(x) - x))
        latency = np.ceil(x / 2) * (p["t_k"] * k / 128 * (0.25 + 0.75 * tile_m / 128) + p["t_w"])
        grid = np.maximum(waves * (_overlap(mma, load, p["p"]) + p["t_w"]), latency)
        seconds = seconds + _overlap(grid, dram, p["p_m"])
    return seconds


def _overlap(one: np.ndarray, other: np.ndarray, p: float) -> np.ndarray:
    """Seconds of two things at once, (one^p + other^p)^(1/p): their sum at p = 1, the longer one as p grows."""
    longer = np.maximum(one, other)
    ratio = (np.minimum(one, other) / longer).astype(np.float32)  # powers are ten times faster so, and exact to 1e-7
    return longer * (1 + ratio ** np.float32(p)) ** np.float32(1 / p)


def _chip_bytes_per_s(device: Device) -> float:
    """R: what cores and caches move goes with cores times clock, as the peak does."""
    return peak(device, PRECISIONS["bf16"], PRECISIONS["bf16"]) / _FLOPS_PER_BYTE


def pass_bytes(rows: Rows) -> np.ndarray:
    """[rows] bytes of permuting, activating and un-permuting the rank's own pairs, in bf16."""
    return rows["pairs"] * (2 * rows["hidden_size"] + (rows["gated"] + 2) * rows["width"]) * _ACTIVATION_BYTES


def _passes(device: Device, rows: Rows, parameters: Mapping[str, float]) -> np.ndarray:
    """Seconds of everything but the products: launches, permutation, activation, reduction, routing."""
    p = parameters
    entering = (rows["hidden_size"] + (rows["gated"] + 2) * rows["width"]) * _ACTIVATION_BYTES
    own = pass_bytes(rows) / (p["e_a"] * _chip_bytes_per_s(device))
    moved = p["c_t"] * rows["tokens"] * rows["hidden_size"] + p["c_k"] * rows["tokens"] * rows["top_k"] * entering
    routing = p["t_s"] * rows["tokens"] * rows["experts"] + p["t_e"] * rows["touched"]
    return p["t0"] + own + moved / device.hbm_bytes_per_s + routing
