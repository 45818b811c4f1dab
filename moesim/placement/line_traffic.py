"""Traffic of many windows of one cyclic line of tokens, counted without visiting a token twice.

Training reads a trace on and on: millions of tokens a step, of which only those of the trace are different. What a rank
sends is a difference of running sums along the line, so that the work depends on the length of the line and not on that
of the windows.
"""

from __future__ import annotations

import numpy as np

from moesim.placement.placement import Placement
from moesim.placement.traffic import LEVELS, LayerTraffic, choose_slots, distinct_places, through_servers


def line_traffic(
    placement: Placement,
    layer: int,
    ids: np.ndarray,
    begin: np.ndarray,
    length: int,
    *,
    level: str,
    node: np.ndarray,
    count: np.ndarray | None = None,
) -> list[LayerTraffic]:
    """Count one layer of each window, as `moesim.placement.traffic.layer_traffic` would count its tokens.

    ids: [token, k] chosen experts of the whole line. begin: [window, rank] place on the endless line where each rank's
    `length` tokens begin. level, node, count: as there. Replicas take their turns along the line.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    tokens, ranks = len(ids), placement.ranks
    cuts = np.unique(np.concatenate([[0], (begin % tokens).ravel(), ((begin + length) % tokens).ravel()]))
    segment = np.searchsorted(cuts, np.arange(tokens), side="right") - 1
    held = None if count is None else np.arange(ids.shape[1]) < count[:, None]
    valid = ... if held is None else held
    slots = choose_slots(placement, layer, ids, None, node, held)

    def between(by_segment: np.ndarray) -> np.ndarray:
        """[window, rank, …] of counts [segment, …]."""
        upto = np.concatenate([np.zeros_like(by_segment[:1]), np.cumsum(by_segment, axis=0)])
        ends = [_upto(upto, cuts, tokens, place) for place in (begin, begin + length)]
        return ends[1] - ends[0]

    width = ranks * placement.slots_per_rank
    flat = np.bincount((segment[:, None] * width + slots)[valid].ravel(), minlength=len(cuts) * width)
    pairs = between(flat.reshape(len(cuts), width)).reshape(*begin.shape, ranks, -1)
    loads = pairs.sum(axis=1)  # [window, rank, slot]
    if level == "expert":
        sent = pairs.sum(axis=3)
        return [LayerTraffic(load, load.sum(axis=1), copies) for load, copies in zip(loads, sent, strict=True)]
    destination = slots // placement.slots_per_rank
    distinct = between(distinct_places(segment, destination, valid, len(cuts), ranks))
    copies = distinct
    if level == "node":
        server = np.unique(node, return_inverse=True)[1]
        crossing = between(distinct_places(segment, server[destination], valid, len(cuts), int(server.max()) + 1))
        copies = [through_servers(node, *window) for window in zip(distinct, crossing, strict=True)]
    entering = distinct.sum(axis=1)
    return [LayerTraffic(*window) for window in zip(loads, entering, copies, strict=True)]


def _upto(upto: np.ndarray, cuts: np.ndarray, tokens: int, place: np.ndarray) -> np.ndarray:
    """Counts before each place of the endless line, from running sums [segment + 1, …] at the cuts."""
    rounds, rest = np.divmod(place, tokens)
    return rounds[..., None] * upto[-1] + upto[np.searchsorted(cuts, rest)]
