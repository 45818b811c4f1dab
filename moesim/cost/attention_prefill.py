"""The equation of one prefill-attention kernel: s new tokens per sequence over o earlier ones and themselves, causal.

Shared by grouped-query attention and by multi-head latent attention (192/128 dims per head, or 576/512 with one stored
head where the kernel runs absorbed). Symbols as in `moesim.cost.attention_decode`; window w; row tile r, token tile T.

    share   = γ where heads of a group share a tile, else 1;  a tile covers τ = r/share new tokens
    tiles   = ceil(s/τ) per head (per stored head where shared);  tile i sees min(o + i·τ, o + s, w + τ) tokens
    blocks  = Σ_i of those tokens/T, rounded up: + tiles·(1 − min(τ, T)/T)/2, at least one a tile
    block   = r·T·(2·256·((d + d_v)/256)^α/(F·e_c/N) + c_s) + t_k           c_s: exponentials and rescaling per score
    ends    = t_t + r·T·c_m·masked                       masked blocks of a tile: its diagonal, under a window all
    x       = B·heads·tiles/N,  grid = x·(blocks/tiles·block + ends)            (quantised: waves(x) in place of x)
    longest = blocks of the last tile/splits·block + ends,  splits = 1/x where the kernel splits the tokens of a tile
    token   = 2·(d + d_v)·(c_q·H + c_k·H_k)/BW + t_q + t_h·H + t_g·min(H_k·d, 512)/128
    walk    = max((grid^p + longest^p)^(1/p), B·min(o, w)·H_k·κ·b/BW)                        earlier tokens, read once
    t       = t0 + walk + B·s·token + [splits > 1]·t_j + [d no power of two]·t_p

A token's own time is its queries, outputs, new keys and values: rotary embedding, quantising, converting and writing
them. Kernels that write the cache start min(H_k·d, 512) threads a token (vLLM, reshape_and_cache_flash), and threads
are what fills an SM, so that 8 heads of 64 cost as much as 64 of them.
Source: causal tiling as in FlashAttention-2/3, fitted to kernel times measured by NVIDIA, published with AIConfigurator
0.12.0 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.cost.attention_decode import fastest_peak, power_of_two, waves
from moesim.cost.family import Parameter, Rows
from moesim.hardware.device import Device

PARAMETERS = {
    "t0": Parameter(9e-6, 1e-6, 2e-4, "s", "fixed time of one launch", spread=1.5),
    "e_c": Parameter(1.0, 0.03, 2.5, "1", "share of the bf16 peak reached; above 1 on fp8 units", spread=0.7),
    "c_s": Parameter(2e-11, 1e-14, 3e-9, "s·core", "softmax of one score", spread=1.5),
    "t_k": Parameter(2e-8, 1e-9, 3e-6, "s", "latency of one block", spread=1),
    "t_t": Parameter(1.5e-6, 1e-8, 3e-5, "s", "start and end of one tile", spread=1),
    "c_q": Parameter(1.5, 0.3, 30.0, "1", "passes over queries and outputs", spread=1),
    "c_k": Parameter(1.5, 0.3, 100.0, "1", "passes over new keys and values", spread=1),
    "t_q": Parameter(3e-10, 1e-14, 3e-8, "s", "time per new token", spread=1.5),
    "t_h": Parameter(5e-12, 1e-14, 1e-9, "s", "time per new token and query head", spread=1.5),
    "t_g": Parameter(5e-12, 1e-14, 1e-8, "s", "time per 128 threads that write a new token", spread=1.5),
    "c_m": Parameter(5e-12, 1e-15, 1e-9, "s·core", "masking of one score", spread=1.5),
    "alpha": Parameter(1.2, 0.6, 2.0, "1", "growth of a product with d + d_v", spread=0.15),
    "t_j": Parameter(1e-6, 1e-8, 2e-5, "s", "extra launch that joins splits", spread=1.5),
    "t_p": Parameter(2e-7, 1e-8, 2e-5, "s", "extra launch that pads odd head dims", spread=1.5),
    "p": Parameter(1.5, 1.0, 10.0, "1", "overlap of the longest tile with the rest", spread=0.7),
    "q": Parameter(0.3, 0.03, 1.0, "1", "wave quantisation: 1 full, 0 none", spread=0.7),
}

_MOST_THREADS = 512  # of a CTA that writes one token into the cache

CHOICES = {
    "shared_tiles": (False, True),
    "tile_rows": ("by_tokens", "by_dims", 128, 64, 256, 32, 16),
    "tile_tokens": (128, 64, 32),
    "skips_window": (True, False),
    "padded_dims": (False, True),
    "splits_tokens": (False, True),
    "quantised": (False, True),
}


def prefill_seconds(
    device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]
) -> np.ndarray:
    """[rows] seconds by the equation above. rows: the geometry of `moesim.cost.attention`."""
    p, c = parameters, choices
    batch, new, heads, stored = rows["batch"], rows["new_tokens"], rows["heads"], rows["stored_heads"]
    dims = rows["key_dim"] + rows["value_dim"]
    shared = c["shared_tiles"] or c.get("absorbed", False)
    share, walked = (heads / stored, stored) if shared else (1.0, heads)
    tile_rows, tile_tokens = _tile_rows(c["tile_rows"], new * share, rows["key_dim"]), c["tile_tokens"]

    covered = tile_rows / share
    window = rows["window"] if c["skips_window"] else np.inf
    tiles, tokens, last = tile_work(new, rows["earlier"], window, covered)
    rounded = tokens / tile_tokens + tiles * (1 - np.minimum(covered, tile_tokens) / tile_tokens) / 2
    blocks = np.maximum(rounded / tiles, 1)  # of the mean tile
    whole = rows["earlier"] + new <= window
    masked = np.where(whole, np.clip(np.minimum(covered, new) / tile_tokens, 1, blocks), blocks)

    odd = power_of_two(rows["key_dim"]) != rows["key_dim"]
    width = 2 * power_of_two(rows["key_dim"]) if c["padded_dims"] else dims
    product = 2 * 256 * (width / 256) ** p["alpha"] / (p["e_c"] * device.peak["bf16"] / device.cores)
    block = tile_rows * tile_tokens * (product + p["c_s"]) + p["t_k"]
    ends = p["t_t"] + tile_rows * tile_tokens * masked * p["c_m"]
    x = batch * walked * tiles / device.cores
    splits = np.maximum(1 // x, 1) if c["splits_tokens"] else 1
    longest = np.ceil(np.ceil(last / tile_tokens) / splits) * block + ends
    grid = (waves(x, p["q"]) if c["quantised"] else x) * (blocks * block + ends)

    moved = 2 * dims * (p["c_q"] * heads + p["c_k"] * stored) / device.hbm_bytes_per_s
    threads = np.minimum(stored * rows["key_dim"], _MOST_THREADS)
    token = moved + p["t_q"] + p["t_h"] * heads + p["t_g"] * threads / 128
    extra = np.where(splits > 1, p["t_j"], 0.0) + np.where(odd, p["t_p"], 0.0)
    walk = np.maximum((grid ** p["p"] + longest ** p["p"]) ** (1 / p["p"]), _earlier_s(device, rows))
    return p["t0"] + walk + batch * new * token + extra


def tile_work(
    new: np.ndarray, earlier: np.ndarray, window: np.ndarray | float, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one head: tiles, tokens seen by all of them together, tokens seen by the last. covered: new tokens a tile."""
    tiles = np.ceil(new / covered)
    last = np.minimum(earlier + new, window + covered)
    growing = np.clip(np.floor((last - earlier) / covered), 0, tiles)
    return tiles, growing * earlier + covered * growing * (growing + 1) / 2 + (tiles - growing) * last, last


def _tile_rows(rule: int | str, tile_share: np.ndarray, key_dim: np.ndarray) -> np.ndarray | int:
    """Rows of a tile; kernels that have two take 64 for few rows (``by_tokens``), or 192 for narrow heads."""
    if rule == "by_tokens":
        return np.where(tile_share <= 64, 64.0, 128.0)
    return np.where(key_dim <= 64, 192.0, 128.0) if rule == "by_dims" else rule


def prefill_bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: queries, outputs and earlier tokens once through HBM; exact FLOPs at peak."""
    dims, window = rows["key_dim"] + rows["value_dim"], rows["window"]
    _, scores, _ = tile_work(rows["new_tokens"], rows["earlier"], window - 1, np.ones_like(dims))
    queries = rows["batch"] * rows["new_tokens"] * rows["heads"] * dims * rows["query_bytes"]
    narrowest = np.minimum(rows["query_bytes"], rows["kv_bytes"])
    compute_s = 2 * rows["batch"] * rows["heads"] * scores * dims / fastest_peak(device, narrowest)
    return queries / device.hbm_bytes_per_s + _earlier_s(device, rows), compute_s


def _earlier_s(device: Device, rows: Rows) -> np.ndarray:
    """[rows] seconds that earlier tokens take through HBM."""
    tokens = rows["batch"] * np.minimum(rows["earlier"], rows["window"])
    return tokens * rows["stored_heads"] * rows["stored_dims"] * rows["kv_bytes"] / device.hbm_bytes_per_s
