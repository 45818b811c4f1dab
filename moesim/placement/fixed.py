"""Placements that look at no loads."""

from __future__ import annotations

import numpy as np

from moesim.placement.evidence import Evidence
from moesim.placement.packing import check_room, part_twins
from moesim.placement.placement import Placement


def contiguous(load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int) -> Placement:
    """Expert e in slot e: neighbours share a rank, what every framework does by default.

    load: [layer, expert], of which only the shape is used. Spare slots hold the first experts again.
    """
    return _tile("contiguous", load, np.arange(ranks * slots_per_rank).reshape(ranks, slots_per_rank))


def round_robin(load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int) -> Placement:
    """Expert e on rank e mod ranks, so that the experts of one routing group are spread. Spare slots repeat from 0."""
    return _tile("round_robin", load, np.arange(ranks * slots_per_rank).reshape(slots_per_rank, ranks).T)


def random(load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int) -> Placement:
    """Experts shuffled over the slots, each layer anew. Spare slots hold different experts, drawn at random."""
    layers, experts = load.shape
    check_room(experts, ranks, slots_per_rank)
    rng = np.random.default_rng((evidence.seed if evidence else 0, 3))
    placed = np.empty((layers, ranks, slots_per_rank), dtype=np.int32)
    for layer in range(layers):
        rounds = -(-ranks * slots_per_rank // experts)
        copies = np.concatenate([rng.permutation(experts) for _ in range(rounds)])[: ranks * slots_per_rank]
        placed[layer] = copies.reshape(ranks, slots_per_rank)
    return Placement("random", part_twins(placed), experts)


def _tile(name: str, load: np.ndarray, slots: np.ndarray) -> Placement:
    layers, experts = load.shape
    check_room(experts, *slots.shape)
    one = part_twins((slots % experts).astype(np.int32)[None])[0]
    return Placement(name, np.broadcast_to(one, (layers, *one.shape)), experts)
