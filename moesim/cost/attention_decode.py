"""The equation of one decode-attention kernel: one new query token per sequence over its cached keys and values.

Shared by grouped-query attention and by multi-head latent attention (one stored head of 576 dims that all query heads
read). Symbols: B sequences, L cached tokens inside the window, H query heads, H_k stored heads, γ = H/H_k, d and d_v
key and value dims, κ elements stored per token and head (d + d_v, or 576), b bytes per stored element; BW, F, N
datasheet bandwidth, peak and cores. Chosen per kernel: row tile r, token tile T, CTAs per core, splits.

    rows    = min(r, max(8, γ to the next power of two)),  items = B·H_k·ceil(γ/r)         query heads share a tile
    splits  = clamp(slots/items, 1, tiles), slots = CTAs per core · N, tiles = ceil(L/T)       flash-decoding
    tile    = max(c_0·(d + d_v)/256^α, T·κ·b/(c_l·BW/N), 2·rows·T·(d + d_v)/(F·e_c/N))         one tile of tokens
    grid    = waves · (t_i + t_r·rows·(d + d_v)/256 + ceil(tiles/splits)·tile)
    waves   = x ≤ 1 → 1, else ceil(x) − (1 − q)·(ceil(x) − x),  x = items·splits/slots
    hbm     = (B·H_k·L·κ·b / cache + B·H·(d + d_v)·2) / (BW·e_m)             cache > 1 where the cache holds all of it
    t       = t0 + (grid^p + hbm^p)^(1/p) + [splits > 1]·(t_s + t_n·splits) + t_b·B + [window cuts]·t_w

Groups that a kernel cannot pack (γ = 1, very wide γ; choice ``unpacked``) run one CTA per query head, with t_i2 and c_2
in place of t_i and c_0.
Source: split-KV scheduling as in FlashAttention-3 and TensorRT-LLM, fitted to kernel times measured by NVIDIA and
published with AIConfigurator 0.12.0 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.fitting import Parameter, Rows
from moesim.hardware.device import Device

# Last-level cache over HBM bandwidth, for working sets that stay in it: no measured kernel needs more than 2.
CACHE_SPEEDUP = 2.0

PARAMETERS = {
    "t0": Parameter(7e-6, 1e-6, 2e-4, "s", "fixed time of one launch", spread=1.5),
    "e_m": Parameter(0.85, 0.05, 1.0, "1", "share of datasheet bandwidth reached", spread=0.7),
    "e_c": Parameter(0.6, 0.05, 2.0, "1", "share of the bf16 peak reached; above 1 on fp8 units", spread=0.7),
    "c_l": Parameter(3.0, 0.25, 30.0, "1", "rate into one core over its share of HBM", spread=1),
    "c_0": Parameter(4e-7, 1e-8, 1e-5, "s", "latency of a tile of 128 tokens, d + d_v = 256", spread=1),
    "alpha": Parameter(1.0, 0.3, 2.5, "1", "growth of that latency with d + d_v", spread=0.3),
    "t_i": Parameter(2e-6, 1e-8, 3e-5, "s", "start and end of one CTA", spread=1),
    "t_r": Parameter(3e-10, 1e-12, 1e-7, "s", "time per query row of a tile, d + d_v = 256", spread=1.5),
    "t_s": Parameter(1.5e-6, 1e-8, 3e-5, "s", "extra launch that joins splits", spread=1),
    "t_n": Parameter(3e-8, 1e-10, 2e-6, "s", "joining one more split", spread=1),
    "t_b": Parameter(3e-9, 1e-11, 3e-6, "s", "scheduling one sequence", spread=1.5),
    "t_w": Parameter(3e-7, 1e-8, 4e-5, "s", "masking outside a window", spread=1.5),
    "cache": Parameter(1.3, 1.0, CACHE_SPEEDUP, "1", "last-level cache over HBM bandwidth", spread=0.3),
    "p": Parameter(2.0, 1.0, 10.0, "1", "overlap of HBM and CTAs: 1 none, large perfect", spread=0.7),
    "q": Parameter(0.3, 0.03, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=0.7),
    "t_i2": Parameter(2e-6, 1e-8, 3e-5, "s", "start and end of one CTA, unpacked", spread=1),
    "c_2": Parameter(5e-7, 1e-8, 1e-5, "s", "latency of a tile, unpacked", spread=1),
}

# (from, up to) the γ that run unpacked, beside γ = 1 where `from` is 1.
_UNPACKED = {"never": (0, np.inf), "single": (1, np.inf), "single_wide": (1, 32), "wide": (0, 32), "wider": (0, 16)}

CHOICES = {
    "unpacked": tuple(_UNPACKED),
    "ctas_per_core": (2, 1, 4),
    "most_splits": (256, 64, 32, 16, 8),
    "tile_rows": (16, 8, 32, 64, 128),
    "least_tiles": (1, 2, 4),
    "tile_tokens": (128, 64),
    "padded_dims": (False, True),
    "overfill": (False, True),
}


def decode_seconds(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """[rows] seconds by the equation above. rows: the geometry of `moesim.cost.attention`."""
    p, c = parameters, choices
    batch, heads, stored = rows["batch"], rows["heads"], rows["stored_heads"]
    group, dims = heads / stored, rows["key_dim"] + rows["value_dim"]
    single, wide = _UNPACKED[c["unpacked"]]
    unpacked = (group == single) | (group > wide)
    read_bytes, core_rate = rows["stored_dims"] * rows["kv_bytes"], device.hbm_bytes_per_s / device.cores
    width = (2 ** np.ceil(np.log2(rows["key_dim"])) * 2 if c["padded_dims"] else dims) / 256

    packed = np.where(unpacked, 1.0, group)
    row_tile = np.minimum(c["tile_rows"], np.maximum(8.0, 2 ** np.ceil(np.log2(packed))))
    items = batch * np.where(unpacked, heads, stored * np.ceil(group / c["tile_rows"]))
    tiles, slots = np.ceil(rows["visible"] / c["tile_tokens"]), c["ctas_per_core"] * device.cores
    splits = np.ceil(slots / items) if c["overfill"] else np.floor(slots / items)
    useful = np.minimum(np.maximum(np.floor(tiles / c["least_tiles"]), 1), c["most_splits"])
    splits = np.clip(splits, 1, useful)

    latency = np.where(unpacked, p["c_2"], p["c_0"]) * c["tile_tokens"] / 128 * width ** p["alpha"]
    load = c["tile_tokens"] * read_bytes / (p["c_l"] * core_rate)
    products = 2 * row_tile * c["tile_tokens"] * dims / (p["e_c"] * device.peak["bf16"] / device.cores)
    tile = np.maximum(np.maximum(latency, load), products)
    cta = np.where(unpacked, p["t_i2"], p["t_i"]) + p["t_r"] * row_tile * width + np.ceil(tiles / splits) * tile
    grid = waves(items * splits / slots, p["q"]) * cta

    cached_bytes = batch * stored * rows["visible"] * read_bytes
    hbm = cached_bytes / cache_gain(device, cached_bytes, p["cache"]) + batch * heads * dims * 2
    hbm = hbm / (device.hbm_bytes_per_s * p["e_m"])
    joined = np.where(splits > 1, p["t_s"] + p["t_n"] * splits, 0.0)
    masked = np.where(rows["context"] > rows["visible"], p["t_w"], 0.0)
    return p["t0"] + (grid ** p["p"] + hbm ** p["p"]) ** (1 / p["p"]) + joined + masked + p["t_b"] * batch


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
