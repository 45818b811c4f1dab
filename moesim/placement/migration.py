"""What it takes to go from one placement to another: which ranks must fetch which experts, from where."""

from __future__ import annotations

import numpy as np

from moesim.placement.placement import Placement


def align(old: Placement, new: Placement, interchangeable: np.ndarray) -> np.ndarray:
    """Expert [layer, rank, slot] of the new placement with its ranks renamed so that most experts stay where they are.

    interchangeable: [rank] ranks with equal numbers may change places (those of one server, or all). An assignment
    problem for each such class and layer; nobody's load changes, only who carries it.
    """
    from scipy.optimize import linear_sum_assignment

    moved = new.expert.copy()
    before, after = holdings(old), holdings(new)
    for layer in range(len(moved)):
        kept = after[layer].astype(np.float32) @ before[layer].T.astype(np.float32)  # [new rank, old rank]
        for which in np.unique(interchangeable):
            ranks = np.flatnonzero(interchangeable == which)
            source, target = linear_sum_assignment(kept[np.ix_(ranks, ranks)], maximize=True)
            moved[layer, ranks[target]] = new.expert[layer, ranks[source]]
    return moved


def moves(old: Placement, new: Placement, node: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Bytes [from rank, to rank] of the experts that ranks of the new placement hold and did not hold before.

    Each comes from a rank that held it, of the same server where there is one; equally near ones take turns.
    node: [rank] server. size: [layer] bytes of one expert.
    """
    ranks = new.ranks
    total = np.zeros((ranks, ranks))
    before, after = holdings(old), holdings(new)
    for layer, bytes_ in enumerate(size):
        target, expert = np.nonzero(after[layer] & ~before[layer])
        held = old.slot_of[layer, expert] // old.slots_per_rank  # [move, replica] ranks that hold it
        copies = held.shape[1]
        turn = (np.arange(copies) - np.arange(len(target))[:, None]) % copies
        distance = np.where(node[held] == node[target][:, None], 0, copies) + turn
        distance = np.where(np.arange(copies) < old.replicas[layer, expert][:, None], distance, 3 * copies)
        source = np.take_along_axis(held, distance.argmin(axis=1)[:, None], axis=1)[:, 0]
        np.add.at(total, (source, target), bytes_)
    return total


def holdings(placement: Placement) -> np.ndarray:
    """Whether [layer, rank, expert] a rank holds an expert."""
    layers, ranks, _ = placement.expert.shape
    held = np.zeros((layers, ranks, placement.experts), dtype=bool)
    np.put_along_axis(held, placement.expert.astype(np.int64), True, axis=2)
    return held
