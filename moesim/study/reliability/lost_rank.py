"""What a step takes when one rank is gone: the same tokens on the ranks that are left, through the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.simulate import simulate
from moesim.errors import InvalidInput, Problem
from moesim.network.fidelity import FIDELITIES
from moesim.placement.loss import lose_ranks, refill
from moesim.routing.replay import Routes
from moesim.spec.assembly.parts import overlap_of
from moesim.spec.assembly.step import Assembly
from moesim.workload.deployment import Batch
from moesim.workload.inference import inference_step

_SAMPLED = 4  # ranks, evenly spaced, that are lost in turn
_TOKENS = 64  # of a rank, in the steps that are compared


@dataclass(frozen=True, slots=True)
class LostRank:
    """Mean over the ranks that were lost in turn. slowdown: step time over that of all ranks. dropped: share of
    token-expert pairs that no expert computes. moved: experts (all layers) that had to be loaded elsewhere."""

    slowdown: float
    dropped: float
    moved: float


def measure_lost_rank(assembly: Assembly, *, drop: bool) -> LostRank:
    """Simulate a decode step with and without one rank.

    Its sequences go to the other attention replicas; tokens of its experts go to replicas. Experts without one are
    loaded into spare slots, or with `drop` their token-expert pairs are left out. Raises InvalidInput where a lost rank
    takes the whole server along (attention is not data-parallel), or no slot is left.
    """
    deployment = assembly.deployment
    if deployment.placement is None or deployment.parallelism.attention_dp < 2:
        told = "one rank less stops the whole server, whose attention is not data-parallel over ranks; write restart"
        raise InvalidInput(Problem(told, "recovery.kind"))
    whole = _fewer(assembly)
    before = _seconds(whole)
    ranks = np.unique(np.linspace(0, deployment.parallelism.devices - 1, _SAMPLED).astype(int)).tolist()
    found = []
    for rank in ranks:
        try:
            without, dropped, moved = _without(whole, rank, drop)
        except ValueError as error:
            raise InvalidInput(Problem(f"{error}; or write drop or restart", "recovery.kind")) from None
        found.append((_seconds(without) / before, dropped, moved))
    return LostRank(*(float(value) for value in np.mean(found, axis=0)))


def _fewer(assembly: Assembly) -> Assembly:
    """The assembly with at most `_TOKENS` decoding sequences a replica, each with a typical context."""
    batch, routes = assembly.batch, assembly.routes
    each = min(_TOKENS, int(batch.sequences.min()))
    start = routes.offsets[:-1, None] + np.arange(each)
    return replace(
        assembly,
        batch=replace(batch, sequences=np.full(batch.sequences.shape, each)),
        routes=_only(routes, start.ravel(), np.full(batch.sequences.size, each)),
    )


def _without(assembly: Assembly, rank: int, drop: bool) -> tuple[Assembly, float, int]:
    """(the assembly without a rank, share of pairs dropped, experts moved)."""
    deployment, batch, routes = assembly.deployment, assembly.batch, assembly.routes
    placement, lost = lose_ranks(deployment.placement, (int(deployment.parallelism.ep_index[rank]),))
    dropped, moved = 0.0, 0
    if drop:
        routes, dropped = _drop(routes, lost)
    else:
        placement, moved = refill(placement)
    replica = int(deployment.parallelism.dp_index[rank])
    batch, routes = _move_sequences(batch, routes, replica)
    deployment = replace(deployment, placement=placement)
    return replace(assembly, deployment=deployment, batch=batch, routes=routes), dropped, moved


def _drop(routes: Routes, lost: np.ndarray) -> tuple[Routes, float]:
    """Routes whose choices of lost experts [layer, expert] are left out: valid choices move to the front."""
    width = routes.ids.shape[2]
    valid = np.ones(routes.ids.shape, dtype=bool)
    if routes.count is not None:
        valid = np.arange(width) < routes.count[..., None]
    kept = valid & ~lost[np.arange(len(routes.ids))[:, None, None], routes.ids]
    order = np.argsort(~kept, axis=2, kind="stable")
    ids = np.take_along_axis(routes.ids, order, axis=2)
    return replace(routes, ids=ids, count=kept.sum(axis=2)), 1 - kept.sum() / valid.sum()


def _move_sequences(batch: Batch, routes: Routes, replica: int) -> tuple[Batch, Routes]:
    """The sequences of one attention replica dealt to the others in turn, with their tokens."""
    replicas = batch.sequences.size
    owner = np.repeat(np.arange(replicas), batch.sequences)
    others = np.delete(np.arange(replicas), replica)
    mine = np.flatnonzero(owner == replica)
    owner[mine] = others[np.arange(mine.size) % others.size]
    order = np.argsort(owner, kind="stable")
    sequences = np.bincount(owner, minlength=replicas)
    return replace(batch, sequences=sequences), _only(routes, order, sequences)


def _only(routes: Routes, tokens: np.ndarray, per_rank: np.ndarray) -> Routes:
    """The routes of these tokens, in this order, so many for each rank."""
    return replace(
        routes,
        ids=routes.ids[:, tokens],
        count=None if routes.count is None else routes.count[:, tokens],
        offsets=np.concatenate([[0], np.cumsum(per_rank)]),
        tokens=routes.tokens[:, tokens],
    )


def _seconds(assembly: Assembly) -> float:
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, overlap_of(assembly.scenario))
    rates = FIDELITIES[assembly.deployment.fidelity].rates
    return simulate([step.program], rates, assembly.deployment.network.capacity).makespan_s
