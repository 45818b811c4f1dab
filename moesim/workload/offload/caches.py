"""Which experts a rank keeps in HBM: cache policies, replayed over decode steps.

A cache is a function in `CACHES` that says how much each expert is worth after each step; what is worth most stays.
Its keyword-only arguments are the keys that a scenario sets under ``offload.cache:``. All caches start with the experts
that were most popular in the earlier part of the trace, and all may keep any of what they held and what was just used.

Under these rules the clairvoyant one is optimal: a hit is an expert kept from one use to the next, so the most hits are
the largest set of such intervals of which never more than the capacity overlap, and dropping what ends last finds it
(Belady 1966; Carlisle and Lloyd 1995 for several requests at once). The others grow with their capacity: each keeps the
most valuable of all experts seen so far, and a larger cache keeps those and more (Mattson et al. 1970).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def lru(touched: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Keep what was used last (mixtral-offloading, MoE-Infinity's baseline)."""
    step = np.arange(len(touched), dtype=float)[:, None, None, None]
    return np.maximum.accumulate(np.where(touched, step, -1.0), axis=0) + tie


def lfu(touched: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Keep what was used most often since the replay began."""
    return np.cumsum(touched, axis=0, dtype=float) + tie


def pinned_popular(touched: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Keep for ever what was popular in the earlier part of the trace (KTransformers, Fiddler)."""
    return np.broadcast_to(tie, touched.shape)


def belady(touched: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Keep what is used again soonest: the optimum of someone who knows the future, a bound for all others."""
    steps = len(touched)
    step = np.arange(steps, dtype=float)[:, None, None, None]
    following = np.full((steps + 1, *touched.shape[1:]), 2.0 * steps)
    following[:steps] = np.where(touched, step, 2.0 * steps)
    upcoming = np.minimum.accumulate(following[::-1], axis=0)[::-1]  # the next use at or after each step
    return tie - upcoming[1:]


# Each takes touched [step, layer, rank, slot] and tie [layer, rank, slot] in [0, 1), larger for what was more popular,
# and returns the worth [step, layer, rank, slot] of keeping each expert after each step.
CACHES: dict[str, Callable[..., np.ndarray]] = {
    "lru": lru,
    "lfu": lfu,
    "pinned_popular": pinned_popular,
    "belady": belady,
}


@dataclass(frozen=True, slots=True, eq=False)
class Residency:
    """What was in HBM. All [step, layer, rank, slot]: touched by a token, and resident when its layer began."""

    touched: np.ndarray
    resident: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Experts touched and found in HBM."""
        return self.touched & self.resident

    @property
    def misses(self) -> np.ndarray:
        """Experts touched and not there."""
        return self.touched & ~self.resident


def replay_cache(
    touched: np.ndarray, popularity: np.ndarray, capacity: np.ndarray, worth: Callable[..., np.ndarray], **options
) -> Residency:
    """Run a cache over decode steps.

    touched: [step, layer, rank, slot] whether a token of the step chose the expert in the slot. popularity: [layer,
    rank, slot] of the earlier part of the trace. capacity: [layer] experts that a rank keeps. worth: one of `CACHES`.
    """
    tie = _order(popularity) / popularity.shape[-1]
    value = worth(touched, tie, **options)
    resident = np.empty(touched.shape, dtype=bool)
    kept = _best(tie, np.ones(tie.shape, dtype=bool), capacity)
    for step, used in enumerate(touched):
        resident[step] = kept
        kept = _best(value[step], kept | used, capacity)
    return Residency(touched, resident)


def best_slots(worth: np.ndarray, allowed: np.ndarray, most: int) -> np.ndarray:
    """The `most` most valuable of the allowed slots [..., slot] on each rank."""
    valued = np.where(allowed, worth, -np.inf)
    order = np.argsort(-valued, axis=-1, kind="stable")
    chosen = np.zeros(allowed.shape, dtype=bool)
    np.put_along_axis(chosen, order[..., :most], True, axis=-1)
    return chosen & allowed


def _best(worth: np.ndarray, allowed: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """The capacity [layer] most valuable of the allowed slots [layer, rank, slot]."""
    place = _order(-np.where(allowed, worth, -np.inf))
    return allowed & (place < capacity[:, None, None])


def _order(values: np.ndarray) -> np.ndarray:
    """Place of each value among those of its rank, smallest first; equal ones in the order of their slots."""
    order = np.argsort(values, axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(values.shape[-1]), values.shape), axis=-1)
    return places
