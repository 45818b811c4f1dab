"""What routing and placement put on ranks and on the wire: tokens per slot, and bytes from rank to rank.

An expert-parallel kernel decides how often a token crosses the network. Copies [source, destination] are counted at the
level of the kernel: ``expert`` sends a copy for each chosen expert (low-latency kernels), ``rank`` one for each rank
that holds a chosen expert, ``node`` one for each server with such a rank, which a peer there fans out (normal kernels
of DeepEP, and what node-limited routing is for).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.placement.placement import Placement

LEVELS = ("expert", "rank", "node")


@dataclass(frozen=True, slots=True, eq=False)
class LayerTraffic:
    """One MoE layer. tokens: [rank, slot] token copies an expert slot computes. copies: [source, destination] copies
    that dispatch sends, own rank included on the diagonal; combine sends them back."""

    tokens: np.ndarray
    copies: np.ndarray


def choose_slots(placement: Placement, layer: int, ids: np.ndarray) -> np.ndarray:
    """Slots [token, k] that serve the chosen experts ids [token, k] in a layer.

    Replicas take turns token by token (as TensorRT-LLM and SGLang's EPLB dispatch do within a batch).
    """
    slot_of = placement.slot_of[layer]
    if slot_of.shape[1] == 1:
        return slot_of[ids, 0]
    turn = np.arange(ids.shape[0])[:, None] % placement.replicas[layer][ids]
    return slot_of[ids, turn]


def layer_traffic(
    placement: Placement, layer: int, ids: np.ndarray, source: np.ndarray, *, level: str, node: np.ndarray
) -> LayerTraffic:
    """Count one layer.

    ids: [token, k] chosen experts. source: [token] rank that holds the token. level: one of `LEVELS`.
    node: [rank] server of each rank.
    """
    slots = choose_slots(placement, layer, ids)
    ranks = placement.ranks
    tokens = np.bincount(slots.ravel(), minlength=ranks * placement.slots_per_rank)
    destination = slots // placement.slots_per_rank
    if level == "expert":
        copies = _count_pairs(np.repeat(source, ids.shape[1]), destination.ravel(), ranks)
    elif level == "rank":
        copies = _count_pairs(*_distinct(source, destination, ranks), ranks)
    elif level == "node":
        copies = _through_nodes(*_distinct(source, destination, ranks), source, destination, node, ranks)
    else:
        raise ValueError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    return LayerTraffic(tokens.reshape(ranks, placement.slots_per_rank), copies)


def _count_pairs(source: np.ndarray, destination: np.ndarray, ranks: int) -> np.ndarray:
    return np.bincount(source * ranks + destination, minlength=ranks * ranks).reshape(ranks, ranks)


def _distinct(source: np.ndarray, destination: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Each (token, place) once: flags are cheaper than sorting, tokens × places bytes at a time."""
    flags = np.zeros((destination.shape[0], places), dtype=bool)
    flags[np.arange(destination.shape[0])[:, None], destination] = True
    token, place = np.nonzero(flags)
    return source[token], place


def _through_nodes(
    rank_source: np.ndarray,
    rank_destination: np.ndarray,
    source: np.ndarray,
    destination: np.ndarray,
    node: np.ndarray,
    ranks: int,
) -> np.ndarray:
    """One copy to each other server, received by the peer with the sender's local index, which fans it out there.

    rank_source, rank_destination: the distinct (token, rank) pairs. A server smaller than the sender's takes the copy
    on its last rank.
    """
    _, first, server, size = np.unique(node, return_index=True, return_inverse=True, return_counts=True)
    local = np.arange(ranks) - first[server]

    def peer(of: np.ndarray, there: np.ndarray) -> np.ndarray:
        return first[there] + np.minimum(local[of], size[there] - 1)

    sender, goal = _distinct(source, server[destination], size.size)
    away = goal != server[sender]
    crossing = _count_pairs(sender[away], peer(sender[away], goal[away]), ranks)
    remote = server[rank_source] != server[rank_destination]
    carrier = np.where(remote, peer(rank_source, server[rank_destination]), rank_source)
    return crossing + _count_pairs(carrier, rank_destination, ranks)
