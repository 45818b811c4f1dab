"""The equation of one decode-attention kernel: one new query token per sequence over its cached keys and values.

Shared by grouped-query attention and by multi-head latent attention (one stored head of 576 dims that all query heads
read). Symbols: B sequences, L cached tokens inside the window, H query heads, H_k stored heads, γ = H/H_k, d and d_v
key and value dims, κ elements stored per token and head (d + d_v, or 576), b bytes per stored element; BW, F, N
datasheet bandwidth, peak and cores. Chosen per kernel: row tile r, token tile T, CTAs per core, the rule for splits.

    shares = ceil(γ/r),  rows = min(r, max(8, γ to the next power of two))           query heads of a group share tiles
    items  = B·H_k·shares,  slots = CTAs per core · N,  tiles = ceil(L/T)
    splits = slots/items, within 1 and tiles                                                           flash-decoding
    tile   = max(c_0·((d + d_v)/256)^α, T·κ·b/(c_l·BW/N), 2·rows·T·(d + d_v)/(F·e_c/N))            one tile of tokens
    fixed  = t_i + t_r·rows·(d + d_v)/256
    grid   = waves·(fixed + ceil(tiles/splits)·tile) − fixed                  the first start of a CTA hides nothing
    waves  = x ≤ 1 → 1, else ceil(x) − (1 − q)·(ceil(x) − x),  x = items·splits/slots
    hbm    = (B·H_k·L·κ·b·(1 + ρ·(shares − 1))/cache + B·H·(d + d_v)·2) / (BW·e_m)    cache > 1 where it holds all
    t      = t0 + fixed + max(grid, hbm) + φ·min(grid, hbm) + t_b·B
             + [splits > 1]·(t_s + t_n·splits) + [window cuts]·t_w + [late d]·t_p

Groups that a kernel cannot pack (γ = 1, wide γ, too few CTAs; choice ``unpacked``) run a second kernel with one CTA per
query head, that starts t_u later, with t_i2 and c_2 in place of t_i and c_0, and reads tokens by 32. Late d are head
dims that the fast kernel lacks: no powers of two, which are padded first, or those up to 64 (choice ``late_dims``).
Source: split-KV scheduling as in FlashAttention-3 and TensorRT-LLM, fitted to kernel times measured by NVIDIA and
published with AIConfigurator 0.12.0 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.family import Parameter, Rows
from moesim.hardware.device import Device

# Last-level cache over HBM bandwidth, for working sets that stay in it: no measured kernel needs more than 2.
CACHE_SPEEDUP = 2.0

PARAMETERS = {
    "t0": Parameter(8e-6, 1e-6, 2e-4, "s", "fixed time of one launch", spread=1.5),
    "e_m": Parameter(0.9, 0.05, 1.0, "1", "share of datasheet bandwidth reached", spread=0.7),
    "e_c": Parameter(0.6, 0.05, 2.0, "1", "share of the bf16 peak reached; above 1 on fp8 units", spread=0.7),
    "c_l": Parameter(3.0, 0.25, 30.0, "1", "rate into one core over its share of HBM", spread=1),
    "c_0": Parameter(4e-7, 1e-8, 1e-5, "s", "latency of a tile of 128 tokens, d + d_v = 256", spread=1),
    "alpha": Parameter(1.0, 0.3, 2.5, "1", "growth of that latency with d + d_v", spread=0.3),
    "t_i": Parameter(1.1e-6, 1e-8, 3e-5, "s", "start and end of one CTA", spread=1),
    "t_r": Parameter(2e-8, 1e-12, 1e-7, "s", "time per query row of a tile, d + d_v = 256", spread=1.5),
    "t_s": Parameter(7e-7, 1e-8, 3e-5, "s", "extra launch that joins splits", spread=1),
    "t_n": Parameter(1e-7, 1e-10, 2e-6, "s", "joining one more split", spread=1),
    "t_b": Parameter(3e-9, 1e-11, 3e-6, "s", "scheduling one sequence", spread=1.5),
    "t_w": Parameter(3e-7, 1e-8, 4e-5, "s", "masking outside a window", spread=1.5),
    "t_p": Parameter(2e-7, 1e-8, 2e-5, "s", "later start of head dims that the fast kernel lacks", spread=1.5),
    "cache": Parameter(1.7, 1.0, CACHE_SPEEDUP, "1", "last-level cache over HBM bandwidth", spread=0.3),
    "rho": Parameter(0.4, 0.02, 1.0, "1", "share of the cache read again by each further row tile", spread=1),
    "phi": Parameter(0.2, 0.02, 1.0, "1", "share of the shorter of CTAs and HBM that is exposed", spread=0.7),
    "q": Parameter(0.7, 0.03, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=0.7),
    "t_u": Parameter(5e-7, 1e-8, 1e-5, "s", "later start of the second kernel", spread=1),
    "t_i2": Parameter(1e-6, 1e-8, 3e-5, "s", "start and end of one of its CTAs", spread=1),
    "c_2": Parameter(5e-7, 1e-8, 1e-5, "s", "latency of one of its tiles", spread=1),
}

# γ that runs unpacked: equal to the first, above the second. "small" adds XQA's rule (TensorRT-LLM, mayHavePerfGain:
# it wants 4·H_k·B·max(1, L/128) of at least the number of SMs).
_UNPACKED = {"never": (0, np.inf), "single": (1, np.inf), "single_wide": (1, 32), "single_wide_small": (1, 32)}
_UNPACKED_TOKENS = 32  # tokens a CTA of the second kernel reads at once

CHOICES = {
    "unpacked": tuple(_UNPACKED),
    "tile_rows": (128, 64, 32, 16, 8, "16_then_64"),
    "splits": ("fill", "overfill", "square_root"),
    "ctas_per_core": (1, 2, 4),
    "most_splits": (256, 64, 32, 16, 8),
    "least_tiles": (1, 2, 4),
    "tile_tokens": (128, 64),
    "padded_dims": (False, True),
    "late_dims": ("odd", "narrow"),
}


def decode_seconds(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """[rows] seconds by the equation above. rows: the geometry of `moesim.cost.attention`."""
    p, c = parameters, choices
    batch, heads, stored, visible = rows["batch"], rows["heads"], rows["stored_heads"], rows["visible"]
    group, dims = heads / stored, rows["key_dim"] + rows["value_dim"]
    width = (2 * power_of_two(rows["key_dim"]) if c["padded_dims"] else dims) / 256
    unpacked = _unpacked(device, rows, group, c["unpacked"])

    packed = np.where(unpacked, 1.0, group)
    most_rows = np.where(group <= 32, 16.0, 64.0) if c["tile_rows"] == "16_then_64" else c["tile_rows"]
    shares, row_tile = np.ceil(packed / most_rows), np.minimum(most_rows, np.maximum(8.0, power_of_two(packed)))
    items = batch * np.where(unpacked, heads, stored * shares)
    splits = _splits(device, rows, items, c)

    token_bytes, core_rate = rows["stored_dims"] * rows["kv_bytes"], device.hbm_bytes_per_s / device.cores
    latency = np.where(unpacked, p["c_2"], p["c_0"]) * c["tile_tokens"] / 128 * width ** p["alpha"]
    load = c["tile_tokens"] * token_bytes / (p["c_l"] * core_rate)
    products = 2 * row_tile * c["tile_tokens"] * dims / (p["e_c"] * device.peak["bf16"] / device.cores)
    tile = np.maximum(np.maximum(latency, load), products)
    read = np.maximum(np.ceil(visible / _UNPACKED_TOKENS) / splits, 1) * _UNPACKED_TOKENS / c["tile_tokens"]
    tiles = np.where(unpacked, read, np.ceil(np.ceil(visible / c["tile_tokens"]) / splits))
    fixed = np.where(unpacked, p["t_i2"], p["t_i"]) + p["t_r"] * row_tile * width
    grid = waves(items * splits / (c["ctas_per_core"] * device.cores), p["q"]) * (fixed + tiles * tile) - fixed

    cached = batch * stored * visible * token_bytes
    moved = cached * (1 + p["rho"] * (shares - 1)) / cache_gain(device, cached, p["cache"]) + batch * heads * dims * 2
    hbm = moved / (device.hbm_bytes_per_s * p["e_m"])
    overlapped = np.maximum(grid, hbm) + p["phi"] * np.minimum(grid, hbm)
    joined = np.where(splits > 1, p["t_s"] + p["t_n"] * splits, 0.0)
    extra = np.where(rows["context"] > visible, p["t_w"], 0.0) + np.where(unpacked, p["t_u"], 0.0)
    late = rows["key_dim"] <= 64 if c["late_dims"] == "narrow" else power_of_two(rows["key_dim"]) != rows["key_dim"]
    extra += np.where(late, p["t_p"], 0.0)
    return p["t0"] + fixed + overlapped + joined + extra + p["t_b"] * batch


def _unpacked(device: Device, rows: Rows, group: np.ndarray, rule: str) -> np.ndarray:
    single, wide = _UNPACKED[rule]
    unpacked = (group == single) | (group > wide)
    if rule == "single_wide_small":
        blocks = rows["batch"] * rows["stored_heads"] * np.maximum(1, rows["visible"] // 128)
        unpacked |= 4 * blocks < device.cores
    return unpacked


def _splits(device: Device, rows: Rows, items: np.ndarray, choices: Mapping[str, object]) -> np.ndarray:
    """[rows] CTAs that share the tokens of one item.

    ``fill`` never starts a second wave, ``overfill`` fills the last one too. ``square_root`` is TensorRT-LLM's rule for
    XQA: sqrt(8·blocks of 128 tokens), up to 8 waves, counting tokens that a window masks.
    """
    items = np.maximum(items, 1)  # a rank without sequences
    if choices["splits"] == "square_root":
        blocks = rows["context"] // 128
        few = np.minimum(blocks, np.rint(np.sqrt(8 * blocks)))
        return np.maximum(np.minimum(few, 8 * device.cores // items), 1)
    filling = choices["ctas_per_core"] * device.cores / items
    filling = np.ceil(filling) if choices["splits"] == "overfill" else np.floor(filling)
    useful = np.ceil(rows["visible"] / choices["tile_tokens"]) // choices["least_tiles"]
    return np.maximum(np.minimum(filling, np.minimum(useful, choices["most_splits"])), 1)


def power_of_two(size: np.ndarray) -> np.ndarray:
    """[rows] the next power of two, itself included."""
    return 2 ** np.ceil(np.log2(size))


def decode_bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: stored keys and values once, at cache speed where they fit; FLOPs at peak."""
    visible, dims = rows["visible"], rows["key_dim"] + rows["value_dim"]
    cached_bytes = rows["batch"] * rows["stored_heads"] * visible * rows["stored_dims"] * rows["kv_bytes"]
    fits = cached_bytes <= (device.cache_bytes or 0)
    memory_s = cached_bytes / (device.hbm_bytes_per_s * np.where(fits, CACHE_SPEEDUP, 1.0))
    return memory_s, 2 * rows["batch"] * rows["heads"] * visible * dims / fastest_peak(device, rows["kv_bytes"])


def waves(x: np.ndarray, quantised: float) -> np.ndarray:
    """Rounds that x CTAs per slot take: one up to 1; beyond, between x (quantised 0) and ceil(x) (quantised 1)."""
    return np.where(x <= 1, 1.0, np.ceil(x) - (1 - quantised) * (np.ceil(x) - x))


def cache_gain(device: Device, moved_bytes: np.ndarray, speedup: float) -> np.ndarray:
    """[rows] ``speedup`` for working sets far below half the last-level cache, 1 far above, smooth between."""
    if not device.cache_bytes:
        return np.ones_like(moved_bytes)
    share = 1 / (1 + (2 * moved_bytes / device.cache_bytes) ** 4)
    return 1 / (1 - share + share / speedup)


def fastest_peak(device: Device, element_bytes: np.ndarray) -> np.ndarray:
    """[rows] the fastest FLOP/s that operands of this width may run at: fp8 where one byte is stored, else bf16."""
    return np.where(element_bytes < 2, device.peak.get("fp8", device.peak["bf16"]), device.peak["bf16"])
