"""A placement that loses ranks: which experts survive in replicas, and where the others can go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.placement.placement import Placement, only_on


def lose_ranks(placement: Placement, ranks: tuple[int, ...]) -> tuple[Placement, np.ndarray]:
    """The placement without these ranks, and which experts [layer, expert] stood on no other rank."""
    dead = tuple(sorted({*placement.dead, *ranks}))
    return replace(placement, dead=dead), only_on(placement.expert, placement.experts, dead)


def refill(placement: Placement) -> tuple[Placement, int]:
    """Put experts that only dead ranks held into slots of replicas elsewhere, and say how many were moved.

    Every lost expert takes, on the surviving rank that took the fewest so far, a slot whose expert has another one.
    Raises ValueError where a layer has no such slot left.
    """
    expert = placement.expert.copy()
    alive = np.setdiff1d(np.arange(placement.ranks), placement.dead)
    lost = only_on(expert, placement.experts, placement.dead)
    for layer in np.flatnonzero(lost.any(axis=1)):
        held = expert[layer]
        count = np.bincount(held[alive].ravel(), minlength=placement.experts)
        taken = np.zeros(placement.ranks, dtype=int)
        for missing in np.flatnonzero(lost[layer]):
            spare = count[held] > 1
            room = [rank for rank in alive[np.argsort(taken[alive], kind="stable")] if spare[rank].any()]
            if not room:
                raise ValueError(
                    f"layer {layer} has no slot of a replica left for expert {missing}; more slots a rank would help"
                )
            slot = int(np.argmax(np.where(spare[room[0]], count[held[room[0]]], 0)))
            count[held[room[0], slot]] -= 1
            held[room[0], slot] = missing
            count[missing] += 1
            taken[room[0]] += 1
    return replace(placement, expert=expert), int(lost.sum())
