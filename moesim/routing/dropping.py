"""Token dropping: experts that take no more than their capacity (GShard, Switch, V-MoE)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from moesim.routing.replay import Routes

GROUPS = ("rank", "batch")


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """What experts take at most, as `drop_over_capacity` has it."""

    factor: float
    group: str = "rank"


def capacity(tokens: int, top_k: int, experts: int, factor: float) -> int:
    """Tokens of a group that an expert takes at most: ⌈factor · tokens · k / experts⌉ (Lepikhin et al. 2020, GShard,
    section 2.2; Fedus et al. 2021, Switch Transformers, equation 3)."""
    return math.ceil(round(factor * tokens * top_k / experts, 9))  # 1.1 · 10 is no more than 11


def drop_over_capacity(routes: Routes, experts: int, *, factor: float, group: str) -> tuple[Routes, np.ndarray]:
    """The routes without the choices that their experts have no room for, and the share [layer] of choices dropped.

    group: whose tokens share an expert's capacity: those of one ``rank`` (the local groups of GShard) or of the whole
    ``batch``. All tokens' first choices come before all second ones, earlier tokens before later ones. A token that
    loses all of its experts goes on with what the layer's other paths give it.
    """
    layers, tokens, top_k = routes.ids.shape
    edges = routes.offsets if group == "rank" else np.array([0, tokens])
    group_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    room = np.array([capacity(int(size), top_k, experts, factor) for size in np.diff(edges)], dtype=np.int64)
    held = np.ones((layers, tokens, top_k), dtype=bool)
    if routes.count is not None:
        held = np.arange(top_k) < routes.count[:, :, None]
    kept = np.stack([_kept(ids, some, group_of, room, experts) for ids, some in zip(routes.ids, held, strict=True)])
    first = np.argsort(~kept, axis=2, kind="stable")
    ids = np.take_along_axis(routes.ids, first, axis=2)
    share = 1 - kept.sum(axis=(1, 2)) / np.maximum(held.sum(axis=(1, 2)), 1)
    return dataclasses.replace(routes, ids=ids, count=kept.sum(axis=2)), share


def _kept(ids: np.ndarray, held: np.ndarray, group_of: np.ndarray, room: np.ndarray, experts: int) -> np.ndarray:
    """Which choices ids [token, k] of one layer their experts have room for."""
    key = np.where(held, group_of[:, None] * experts + ids, len(room) * experts).T.ravel()  # first choices first
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    begin = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    place = np.empty(key.size, dtype=np.int64)
    place[order] = np.arange(key.size) - np.repeat(begin, np.diff(np.append(begin, key.size)))
    limit = np.append(room, 0)[key // experts]
    return (place < limit).reshape(ids.shape[::-1]).T
