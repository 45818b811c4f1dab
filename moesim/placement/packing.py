"""The two greedy steps that balanced placements are made of, for many layers at once: replicate, then pack.

A *copy* is one expert slot's worth of an expert; its load is the expert's load over its number of copies.
"""

from __future__ import annotations

import numpy as np


def check_room(experts: int, ranks: int, slots_per_rank: int) -> None:
    """Raise ValueError, saying how many, unless the slots hold every expert and no rank must hold one twice."""
    if slots_per_rank > experts:
        raise ValueError(f"{slots_per_rank} slots on a rank would hold some of {experts} experts twice; write fewer")
    if ranks * slots_per_rank < experts:
        least = -(-experts // ranks)
        raise ValueError(
            f"{experts} experts on {ranks} ranks need at least {least} slots on each, not {slots_per_rank}"
        )


def replicate(load: np.ndarray, slots: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Give each spare slot to the expert with the largest load per copy.

    load: [row, expert]; a row without load counts as equal loads. slots: at least the number of experts. most: copies
    of one expert, at most, so that each can stand on a rank of its own.
    Returns expert and load of each copy, [row, slot], copies of one expert together.
    """
    rows, experts = load.shape
    load = np.where(load.sum(axis=1, keepdims=True) > 0, load, 1).astype(np.float64)
    copies = np.ones((rows, experts))
    every = np.arange(rows)
    for _ in range(slots - experts):
        copies[every, np.argmax(np.where(copies < most, load / copies, -1.0), axis=1)] += 1
    return unfold(load, copies.astype(int))


def unfold(load: np.ndarray, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expert and load [row, slot] of every copy, for loads and numbers of copies [row, expert]."""
    rows, experts = load.shape
    expert = np.repeat(np.tile(np.arange(experts), rows), copies.ravel()).reshape(rows, -1)
    return expert, np.take_along_axis(load / copies, expert, axis=1)


def pack(expert: np.ndarray, share: np.ndarray, bins: int) -> np.ndarray:
    """Longest first: take copies by falling load, each into the least-loaded bin that has room and lacks the expert.

    expert, share: [row, slot] of copies, as `replicate` hands them on. Returns expert [row, bin, place], with
    slots / bins places a bin. No bin holds an expert twice where its copies are no more than the bins.
    """
    rows, slots = expert.shape
    places = slots // bins
    order = np.argsort(-share, axis=1, kind="stable")
    expert, share = np.take_along_axis(expert, order, axis=1), np.take_along_axis(share, order, axis=1)
    every = np.arange(rows)
    load, filled = np.zeros((rows, bins)), np.zeros((rows, bins), dtype=int)
    holds = np.zeros((rows, bins, int(expert.max(initial=0)) + 1), dtype=bool)
    placed = np.zeros((rows, bins, places), dtype=np.int32)
    for column in range(slots):
        chosen = expert[:, column]
        cost = np.where(filled < places, load, np.inf)
        apart = np.where(holds[every, :, chosen], np.inf, cost)
        cost = np.where(np.isfinite(apart).any(axis=1, keepdims=True), apart, cost)
        bin_ = np.argmin(cost, axis=1)
        placed[every, bin_, filled[every, bin_]] = chosen
        holds[every, bin_, chosen] = True
        filled[every, bin_] += 1
        load[every, bin_] += share[:, column]
    return part_twins(placed)


def part_twins(placed: np.ndarray) -> np.ndarray:
    """Swap copies until no bin holds an expert twice, where its copies are no more than the bins. [row, bin, place].

    Greedy packing runs into this with the last copies of a row, when only bins that hold the expert have room.
    """
    ordered = np.sort(placed, axis=2)
    for row in np.flatnonzero((ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=(1, 2))):
        placed = placed.copy() if not placed.flags.writeable else placed
        for bin_ in range(placed.shape[1]):
            for place in range(placed.shape[2]):
                if (placed[row, bin_] == placed[row, bin_, place]).sum() > 1:
                    _swap_away(placed[row], bin_, place)
    return placed


def _swap_away(held: np.ndarray, bin_: int, place: int) -> None:
    """Swap the copy at [bin, place] with one that this bin lacks, of a bin that lacks it; leave it if there is none."""
    expert = held[bin_, place]
    for other in np.flatnonzero(~(held == expert).any(axis=1)):
        fresh = np.flatnonzero(~np.isin(held[other], held[bin_]))
        if fresh.size:
            held[bin_, place], held[other, fresh[0]] = held[other, fresh[0]], expert
            return
