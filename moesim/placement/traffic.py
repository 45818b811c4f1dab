"""What routing and placement put on ranks and on the wire: tokens per slot, and bytes from rank to rank.

An expert-parallel kernel decides how often a token crosses the network. Copies [source, destination] are counted at the
level of the kernel: ``expert`` sends a copy for each chosen expert (low-latency kernels), ``rank`` one for each rank
that holds a chosen expert, ``node`` one for each server with such a rank, which a peer there fans out (normal kernels
of DeepEP, and what node-limited routing is for).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import numpy as np

from moesim.placement.placement import Placement
from moesim.placement.replicas import CHOICES

LEVELS = ("expert", "rank", "node")


@dataclass(frozen=True, slots=True, eq=False)
class LayerTraffic:
    """One MoE layer.

    tokens: [rank, slot] token-expert pairs that an expert slot computes. entering: [rank] tokens that arrive at the
    experts of a rank, whose kernel spreads them to the pairs. copies: [source, destination] copies that dispatch sends,
    own rank included on the diagonal; combine sends them back.
    """

    tokens: np.ndarray
    entering: np.ndarray
    copies: np.ndarray


def choose_slots(
    placement: Placement,
    layer: int,
    ids: np.ndarray,
    source: np.ndarray | None = None,
    node: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Slots [token, k] that serve the chosen experts ids [token, k] in a layer, as the placement's `choice` picks them.

    source: [token] rank of each token and node: [rank] server of each rank, which only ``nearest`` looks at. valid:
    [token, k] whether a choice holds, None for all.
    """
    return CHOICES[placement.choice](placement, layer, ids, source, node, valid)


def layer_traffic(
    placement: Placement,
    layer: int,
    ids: np.ndarray,
    source: np.ndarray,
    *,
    level: str,
    node: np.ndarray,
    count: np.ndarray | None = None,
    slots: np.ndarray | None = None,
) -> LayerTraffic:
    """Count one layer.

    ids: [token, k] chosen experts. source: [token] rank that holds the token, in rising order. level: one of `LEVELS`.
    node: [rank] server of each rank. count: [token] how many of the k choices hold, None for all: routers that drop or
    skip tokens, or whose experts choose. slots: count only these slots of every rank (a chunk of its experts).
    """
    held = None if count is None else np.arange(ids.shape[1]) < count[:, None]
    chosen = choose_slots(placement, layer, ids, source, node, held)
    if slots is not None:
        here = np.isin(chosen % placement.slots_per_rank, slots)
        held = here if held is None else held & here
    valid = ... if held is None else held
    ranks = placement.ranks
    tokens = np.bincount(chosen[valid].ravel(), minlength=ranks * placement.slots_per_rank).reshape(ranks, -1)
    destination = chosen // placement.slots_per_rank
    if level == "expert":
        pairs = (source[:, None] * ranks + destination)[valid].ravel()
        copies = np.bincount(pairs, minlength=ranks * ranks).reshape(ranks, ranks)
        return LayerTraffic(tokens, tokens.sum(axis=1), copies)
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    distinct = _distinct(source, destination, valid, ranks, ranks)
    copies = distinct if level == "rank" else _through_servers(source, destination, valid, node, distinct)
    return LayerTraffic(tokens, distinct.sum(axis=0), copies)


def _distinct(
    source: np.ndarray, destination: np.ndarray, valid: np.ndarray | EllipsisType, ranks: int, places: int
) -> np.ndarray:
    """Tokens [rank, place] of each source rank with at least one of their destinations [token, k] at the place."""
    here = np.zeros(destination.shape[0] * places, dtype=np.uint8)
    here[(np.arange(destination.shape[0])[:, None] * places + destination)[valid].ravel()] = 1
    first = np.flatnonzero(np.diff(source, prepend=-1))
    count = np.zeros((ranks, places), dtype=np.int64)
    if first.size:
        count[source[first]] = np.add.reduceat(here.reshape(-1, places), first, axis=0, dtype=np.int32)
    return count


def _through_servers(
    source: np.ndarray,
    destination: np.ndarray,
    valid: np.ndarray | EllipsisType,
    node: np.ndarray,
    distinct: np.ndarray,
) -> np.ndarray:
    """One copy to each other server, received by the peer with the sender's local index, which fans it out there.

    A server smaller than the sender's takes the copy on its last rank. distinct: copies [source, destination] with one
    for each rank.
    """
    ranks = len(distinct)
    _, first, server, size = np.unique(node, return_index=True, return_inverse=True, return_counts=True)
    local = np.arange(ranks) - first[server]
    peer = first[None, :] + np.minimum(local[:, None], size[None, :] - 1)  # [rank, server]
    crossing = _distinct(source, server[destination], valid, ranks, size.size)
    crossing[np.arange(ranks), server] = 0

    copies = np.zeros((ranks, ranks), dtype=np.int64)
    np.add.at(copies, (np.arange(ranks)[:, None], peer), crossing)
    remote = server[:, None] != server[None, :]
    carrier = np.where(remote, peer[:, server], np.arange(ranks)[:, None])  # [source, destination]
    np.add.at(copies, (carrier, np.arange(ranks)[None, :]), distinct)
    return copies
