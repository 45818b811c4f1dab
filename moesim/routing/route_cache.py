"""A cache of routes: how often a token's experts are already known, measured on a trace.

A key stands for what is known of a token before a layer's router runs. A hit takes the experts that the key had when it
entered; whether they are those that the router would choose is measured too. Keys:

- ``token``: the vocabulary id. Only traces that record ids have it; the shipped captures do not.
- ``prefix``: the token and those before it in its sequence (`window` in all, 0 = every one). Without ids, the routes of
  the first MoE layer stand for the tokens: equal prefixes route alike, so no hit is missed, but tokens that route alike
  count as equal.
- ``previous_layer``: the experts of the layer before. The first layer has none and never hits.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.trace import RouterTrace

KEYS = ("token", "prefix", "previous_layer")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth's multiplicative hash)


@dataclass(frozen=True, slots=True)
class CacheQuality:
    """hit_rate: [layer] share of tokens whose key is known. agreement: share of the choices taken from the cache that
    the router makes too; None without hits."""

    hit_rate: tuple[float, ...]
    agreement: float | None

    @property
    def mean_hit_rate(self) -> float:
        """Over the layers."""
        return float(np.mean(self.hit_rate))


def measure_route_cache(
    learned: RouterTrace, judged: RouterTrace, *, key: str, entries: int, window: int = 0
) -> CacheQuality:
    """Fill a least-recently-used cache of so many entries a layer with the learned trace, then go on with the other.

    Every miss enters the cache, in both. Raises InvalidInput for keys that the trace does not record.
    """
    if key == "token" and judged.token_ids is None:
        message = f"{judged.name} records no token ids; write prefix or previous_layer, or import a trace with ids"
        raise InvalidInput(Problem(message, "key"))
    rates, same, taken = [], 0, 0
    for layer in range(judged.layers):
        cache: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        _replay(cache, _keys(learned, layer, key, window), learned.ids[:, layer], entries)
        hits, right = _replay(cache, _keys(judged, layer, key, window), judged.ids[:, layer], entries)
        rates.append(hits / max(judged.tokens, 1))
        same, taken = same + right, taken + hits * judged.top_k
    return CacheQuality(tuple(rates), same / taken if taken else None)


def _replay(
    cache: OrderedDict[int, tuple[int, ...]], keys: np.ndarray | None, routes: np.ndarray, entries: int
) -> tuple[int, int]:
    """(tokens that hit, choices that were right); updates the cache."""
    if keys is None:
        return 0, 0
    hits = right = 0
    for key, route in zip(keys.tolist(), map(tuple, routes.tolist()), strict=True):
        known = cache.get(key)
        if known is not None:
            hits += 1
            right += len(set(known) & set(route))
            cache.move_to_end(key)
            continue
        cache[key] = route
        if len(cache) > entries:
            cache.popitem(last=False)
    return hits, right


def _keys(trace: RouterTrace, layer: int, key: str, window: int) -> np.ndarray | None:
    """[token] key of each token before a layer; None where a layer has none."""
    if key == "token":
        return np.asarray(trace.token_ids)
    if key == "previous_layer":
        return None if layer == 0 else _hashed(np.sort(trace.ids[:, layer - 1], axis=1))
    tokens = _hashed(np.sort(trace.ids[:, 0], axis=1)) if trace.token_ids is None else _mixed(trace.token_ids)
    if layer == 0 and trace.token_ids is None:
        return None  # its routes are what the others are known by
    place = np.arange(trace.tokens) - np.repeat(trace.offsets[:-1], np.diff(trace.offsets))
    longest = int(np.diff(trace.offsets).max(initial=0)) if window == 0 else window
    keys = np.zeros(trace.tokens, dtype=np.uint64)
    for back in range(min(longest, int(place.max(initial=-1)) + 1)):
        there = place >= back
        before = np.zeros(trace.tokens, dtype=np.uint64)
        before[there] = tokens[np.flatnonzero(there) - back]
        keys = np.where(there, _mixed(keys) ^ before, keys)
    return keys


def _hashed(rows: np.ndarray) -> np.ndarray:
    """[row] one number for each row of small numbers."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        keys = _mixed(keys) ^ _mixed(column.astype(np.uint64) + np.uint64(1))
    return keys


def _mixed(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values).astype(np.uint64) * _MULTIPLIER
    return values ^ (values >> np.uint64(29))
