"""Placement policies: from expert loads to slots. Each takes loads [layer, expert] and hands on a `Placement`.

A policy is a function in `POLICIES`. moesim hands in the positional arguments; the keyword-only ones are the keys that
a scenario sets under ``placement:``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.placement.placement import Placement


def contiguous(load: np.ndarray, ranks: int, *, slots_per_rank: int) -> Placement:
    """Expert e in slot e: neighbours share a rank, what every framework does by default.

    load: [layer, expert], of which only the shape is used. Spare slots hold the first experts again.
    """
    return _tile("contiguous", load, np.arange(ranks * slots_per_rank).reshape(ranks, slots_per_rank))


def round_robin(load: np.ndarray, ranks: int, *, slots_per_rank: int) -> Placement:
    """Expert e on rank e mod ranks, so that the experts of one routing group are spread. Spare slots repeat from 0."""
    return _tile("round_robin", load, np.arange(ranks * slots_per_rank).reshape(slots_per_rank, ranks).T)


def replicate_hot(load: np.ndarray, ranks: int, *, slots_per_rank: int) -> Placement:
    """Spare slots go to the hottest experts, then slots are packed so that ranks carry equal load.

    The two greedy steps of DeepSeek's expert-parallel load balancer (EPLB) without its node hierarchy: (1) give each
    spare slot to the expert with the largest load per replica; (2) take slots by falling load and put each on the
    least-loaded rank that has room and does not hold the expert yet (if no such rank is left, on any with room).
    load: [layer, expert] tokens; a layer without load is placed as if loads were equal.
    """
    layers, experts = load.shape
    slots = ranks * slots_per_rank
    _check_room(experts, ranks, slots_per_rank)
    load = np.where(load.sum(axis=1, keepdims=True) > 0, load, 1).astype(np.float64)
    replicas = np.ones((layers, experts))
    every = np.arange(layers)
    for _ in range(slots - experts):
        replicas[every, np.argmax(load / replicas, axis=1)] += 1

    # Unfold to one column a slot, hottest first.
    expert = np.repeat(np.tile(np.arange(experts), layers), replicas.astype(int).ravel()).reshape(layers, slots)
    share = np.take_along_axis(load / replicas, expert, axis=1)
    order = np.argsort(-share, axis=1, kind="stable")
    expert, share = np.take_along_axis(expert, order, axis=1), np.take_along_axis(share, order, axis=1)

    rank_load = np.zeros((layers, ranks))
    filled = np.zeros((layers, ranks), dtype=int)
    holds = np.zeros((layers, ranks, experts), dtype=bool)
    placed = np.zeros((layers, ranks, slots_per_rank), dtype=np.int32)
    for column in range(slots):
        chosen = expert[:, column]
        cost = np.where(filled < slots_per_rank, rank_load, np.inf)
        apart = np.where(holds[every, :, chosen], np.inf, cost)
        cost = np.where(np.isfinite(apart).any(axis=1, keepdims=True), apart, cost)
        rank = np.argmin(cost, axis=1)
        placed[every, rank, filled[every, rank]] = chosen
        holds[every, rank, chosen] = True
        filled[every, rank] += 1
        rank_load[every, rank] += share[:, column]
    return Placement("replicate_hot", placed, experts)


POLICIES: dict[str, Callable[..., Placement]] = {
    "contiguous": contiguous,
    "round_robin": round_robin,
    "replicate_hot": replicate_hot,
}
# Policies that look at loads: what they learn from is not replayed.
LEARNING = {"replicate_hot"}


def _tile(name: str, load: np.ndarray, slots: np.ndarray) -> Placement:
    layers, experts = load.shape
    _check_room(experts, *slots.shape)
    one = (slots % experts).astype(np.int32)
    return Placement(name, np.broadcast_to(one, (layers, *one.shape)), experts)


def _check_room(experts: int, ranks: int, slots_per_rank: int) -> None:
    if slots_per_rank > experts:
        raise ValueError(f"{slots_per_rank} slots on a rank would hold some of {experts} experts twice; write fewer")
    if ranks * slots_per_rank < experts:
        least = -(-experts // ranks)
        raise ValueError(
            f"{experts} experts on {ranks} ranks need at least {least} slots on each, not {slots_per_rank}"
        )
