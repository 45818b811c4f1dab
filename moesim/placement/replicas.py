"""Which replica of an expert serves a token.

A choice is a function of `CHOICES`: it takes a placement, a layer, chosen experts ids [token, k], the source rank
[token], the server of each rank [rank] and which choices hold (None: all), and hands on slots [token, k].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.placement.placement import Placement

_SWEEPS = 3  # over the replicated experts, after which loads hardly move


def round_robin(
    placement: Placement, layer: int, ids: np.ndarray, source: np.ndarray, node: np.ndarray, valid: np.ndarray | None
) -> np.ndarray:
    """Replicas take turns token by token (as TensorRT-LLM and SGLang's EPLB dispatch do within a batch)."""
    slot_of, replicas = placement.slot_of[layer], placement.replicas[layer]
    if slot_of.shape[1] == 1:
        return slot_of[ids, 0]
    turn = np.arange(ids.shape[0], dtype=np.int32)[:, None] % replicas[ids]
    return np.take(slot_of, ids * np.int32(slot_of.shape[1]) + turn)


def random(
    placement: Placement, layer: int, ids: np.ndarray, source: np.ndarray, node: np.ndarray, valid: np.ndarray | None
) -> np.ndarray:
    """Each choice draws one of the replicas (SGLang's ``dynamic`` dispatch). Drawn anew for each layer."""
    rng = np.random.default_rng((placement.seed, layer, 4))
    turn = (rng.random(ids.shape) * placement.replicas[layer][ids]).astype(np.int32)
    return placement.slot_of[layer][ids, turn]


def nearest(
    placement: Placement, layer: int, ids: np.ndarray, source: np.ndarray, node: np.ndarray, valid: np.ndarray | None
) -> np.ndarray:
    """A replica on the token's own rank, else one in its server, else any; equally near ones take turns."""
    slot_of, replicas = placement.slot_of[layer], placement.replicas[layer]
    slots = slot_of[ids, 0]
    hot = np.flatnonzero(replicas > 1)
    if not hot.size:
        return slots
    held, ranks = slot_of[hot], np.arange(placement.ranks)
    rank = held // placement.slots_per_rank  # [hot expert, replica]
    far = 2 - (node[rank] == node[ranks, None, None]).astype(np.int8) - (rank == ranks[:, None, None])
    far = np.where(np.arange(held.shape[1]) < replicas[hot, None], far, 3)  # [source, hot expert, replica]
    order = np.argsort(far, axis=2, kind="stable")
    equal = (far == far.min(axis=2, keepdims=True)).sum(axis=2)
    place = np.full(placement.experts, -1)
    place[hot] = np.arange(hot.size)
    token, column = np.nonzero(place[ids] >= 0)
    which, start = place[ids[token, column]], source[token]
    pick = order[start, which, token % equal[start, which]]
    slots[token, column] = held[which, pick]
    return slots


def least_loaded(
    placement: Placement, layer: int, ids: np.ndarray, source: np.ndarray, node: np.ndarray, valid: np.ndarray | None
) -> np.ndarray:
    """Replicas share a batch's tokens so that their ranks end up as level as they can.

    From an even split, one expert after the other takes its tokens back and fills the least-loaded of its ranks up to
    one level: descent, block by block, on the sum of squared rank loads. Needs the counts of the whole batch before
    dispatch.
    """
    slot_of, replicas = placement.slot_of[layer], placement.replicas[layer]
    slots = slot_of[ids, 0]
    hot = np.flatnonzero(replicas > 1)
    if not hot.size:
        return slots
    chosen = ids if valid is None else np.where(valid, ids, placement.experts)
    count = np.bincount(chosen.ravel(), minlength=placement.experts + 1)[:-1]
    expert = placement.expert[layer]
    load = (count / replicas)[expert].sum(axis=1)
    held = {each: slot_of[each, : replicas[each]] for each in hot.tolist()}
    share = {each: np.full(len(slot), count[each] / len(slot)) for each, slot in held.items()}
    for _ in range(_SWEEPS):
        for each, slot in held.items():
            rank = slot // placement.slots_per_rank
            load[rank] -= share[each]
            share[each] = _level(load[rank], int(count[each]))
            load[rank] += share[each]
    by_expert = np.argsort(chosen.ravel(), kind="stable")
    first = np.cumsum(count) - count
    flat = slots.ravel()
    for each, slot in held.items():
        flat[by_expert[first[each] : first[each] + count[each]]] = np.repeat(slot, share[each])
    return flat.reshape(ids.shape)


def _level(load: np.ndarray, tokens: int) -> np.ndarray:
    """Whole tokens [bin] that fill bins of such loads [bin] up to one level, lowest first."""
    order = np.argsort(load, kind="stable")
    ordered = load[order]
    # With the j lowest bins filled, their level is (tokens + their loads) / j; take the largest j that reaches its bin.
    level = (tokens + np.cumsum(ordered)) / np.arange(1, len(load) + 1)
    used = int(np.flatnonzero(level >= ordered)[-1]) + 1
    exact = np.maximum(level[used - 1] - ordered[:used], 0)
    share = np.zeros(len(load), dtype=np.int64)
    share[order[:used]] = np.diff(np.rint(np.cumsum(exact)), prepend=0)
    return share


CHOICES: dict[str, Callable[..., np.ndarray]] = {
    "round_robin": round_robin,
    "random": random,
    "nearest": nearest,
    "least_loaded": least_loaded,
}
