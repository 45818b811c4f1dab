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
    distinct = copies = distinct_places(source, destination, valid, ranks, ranks)
    if level == "node":
        server = np.unique(node, return_inverse=True)[1]
        crossing = distinct_places(source, server[destination], valid, ranks, int(server.max()) + 1)
        copies = through_servers(node, distinct, crossing)
    return LayerTraffic(tokens, distinct.sum(axis=0), copies)


def distinct_places(
    source: np.ndarray, destination: np.ndarray, valid: np.ndarray | EllipsisType, ranks: int, places: int
) -> np.ndarray:
    """Tokens [rank, place] of each source rank with at least one of their destinations [token, k] at the place.

    source: [token], in rising order, of `ranks`. valid: [token, k] which destinations count, or an ellipsis for all.
    """
    tokens, width = destination.shape[0], -(-places // 8) * 8
    here = np.zeros(tokens * width, dtype=np.uint8)
    here[(np.arange(tokens)[:, None] * width + destination)[valid].ravel()] = 1
    first = np.flatnonzero(np.diff(source, prepend=-1))
    count = np.zeros((ranks, places), dtype=np.int64)
    if first.size:
        # Bytes are added eight at a time: runs of at most 255 tokens cannot carry into the next.
        runs = -(-np.diff(first, append=tokens) // 255)
        run = np.cumsum(runs) - runs
        begin = np.repeat(first, runs) + 255 * (np.arange(runs.sum()) - np.repeat(run, runs))
        words = np.add.reduceat(here.view(np.uint64).reshape(tokens, -1), begin, axis=0)
        sums = words.view(np.uint8).reshape(len(begin), width)[:, :places]
        count[source[first]] = np.add.reduceat(sums, run, axis=0, dtype=np.int64)
    return count


def through_servers(node: np.ndarray, distinct: np.ndarray, crossing: np.ndarray) -> np.ndarray:
    """Copies [source, destination] where one copy goes to each other server, is received by the peer with the sender's
    local index, and fanned out there.

    A server smaller than the sender's takes the copy on its last rank. distinct: [source, destination] copies with one
    for each rank; crossing: [source, server] with one for each server, the sender's own not looked at.
    """
    ranks = len(distinct)
    _, first, server, size = np.unique(node, return_index=True, return_inverse=True, return_counts=True)
    local = np.arange(ranks) - first[server]
    peer = first[None, :] + np.minimum(local[:, None], size[None, :] - 1)  # [rank, server]
    crossing = crossing.copy()
    crossing[np.arange(ranks), server] = 0

    copies = np.zeros((ranks, ranks), dtype=np.int64)
    np.add.at(copies, (np.arange(ranks)[:, None], peer), crossing)
    remote = server[:, None] != server[None, :]
    carrier = np.where(remote, peer[:, server], np.arange(ranks)[:, None])  # [source, destination]
    np.add.at(copies, (carrier, np.arange(ranks)[None, :]), distinct)
    return copies
