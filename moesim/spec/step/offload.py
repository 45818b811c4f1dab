"""The ``offload:`` block of a scenario: experts that live outside HBM, and what replays them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.routing.replay import Routes, select_sequences
from moesim.routing.trace import RouterTrace
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import check_fits, expert_bytes, footprint
from moesim.workload.offload.caches import CACHES
from moesim.workload.offload.memory import Kept, keep_experts, offloaded_footprint
from moesim.workload.offload.plan import OffloadPolicy, Plan, plan_copies, slot_popularity, slot_tokens
from moesim.workload.offload.prefetch import PREFETCHES, Foresight
from moesim.workload.offload.tiers import Homes, fill_tiers, tiers_of

LEARNED_SHARE = 0.5  # of the trace's sequences, in their order: caches and predictors learn there


class Offload(Spec):
    """Experts wait in memory tiers of the profile and a rank keeps some of them in HBM.

    tiers: nearest first; the most popular experts go to the nearest. cache: which experts stay in HBM. prefetch: which
    are copied before their layer. slots_per_layer: experts of each layer that a rank keeps, by default as many as fit.
    staging: experts that fit in the copy buffers. steps: decode steps replayed in order from the trace.
    """

    tiers: Annotated[tuple[str, ...], Field(min_length=1)]
    cache: kinds(CACHES)
    prefetch: kinds(PREFETCHES)
    slots_per_layer: Annotated[int, Field(ge=0, le=10**6)] | None = None
    staging: Annotated[int, Field(ge=1, le=10**6)] = 2
    steps: Annotated[int, Field(ge=1, le=10**5)] = 64

    def policy(self) -> OffloadPolicy:
        """As the floors below know it."""
        return OffloadPolicy(
            self.cache.kind, self.prefetch.kind, self.staging, self.cache.options(), self.prefetch.options()
        )


@dataclass(frozen=True, slots=True, eq=False)
class OffloadJob:
    """Decode steps with offloaded experts, ready to run.

    routes: of every step. foresight: what predictors may look at. popularity: [layer, rank, slot] in the earlier part
    of the trace. plan: of the scenario's own policy.
    """

    policy: OffloadPolicy
    routes: tuple[Routes, ...]
    foresight: Foresight
    popularity: np.ndarray
    kept: Kept
    homes: Homes
    plan: Plan

    def replanned(self, policy: OffloadPolicy) -> Plan:
        """The same steps under another policy."""
        return plan_copies(policy, self.foresight, self.popularity, self.kept.capacity, self.homes)


def earlier_and_later(trace: RouterTrace) -> tuple[RouterTrace, RouterTrace]:
    """The first sequences of a trace, to learn from, and the others, to replay. Raises InvalidInput if it has one."""
    border = int(trace.sequences * LEARNED_SHARE)
    if not 0 < border < trace.sequences:
        raise InvalidInput(
            Problem(f"{trace.name} has one sequence only; offloading learns from some and replays others", "trace")
        )
    return select_sequences(trace, np.arange(border)), select_sequences(trace, np.arange(border, trace.sequences))


def build_offload(
    offload: Offload,
    deployment: Deployment,
    batch: Batch,
    hardware: Hardware,
    *,
    load: np.ndarray,
    learned: np.ndarray,
    routes: tuple[Routes, ...],
    reserve: float,
    seed: int,
) -> OffloadJob:
    """Decide what is kept in HBM and where the rest waits, and plan the copies.

    load: [layer, expert] and learned: [layer, token, k] of the earlier part of the trace. routes: of the steps.
    Raises InvalidInput for tiers that are not there, Infeasible for what fits nowhere.
    """
    if any(step.count is not None for step in routes):
        raise InvalidInput(Problem("tokens of this trace take different numbers of experts, which offloading lacks"))
    placement, parallelism = deployment.placement, deployment.parallelism
    popularity, sizes = slot_popularity(placement, load), expert_bytes(deployment)
    homes = fill_tiers(tiers_of(hardware, offload.tiers), popularity, sizes, copies=parallelism.expert_tp)
    received = 0
    if parallelism.attention_dp > 1:
        received = max(int(slot_tokens(placement, step.ids).sum(axis=2).max()) for step in routes)
    needs = footprint(deployment, batch, received, reserve=reserve)
    kept = keep_experts(needs, sizes, placement.slots_per_rank, offload.staging, offload.slots_per_layer)
    check_fits(offloaded_footprint(needs, sizes, kept))
    rng = np.random.default_rng((seed, 5))
    ids = np.stack([step.ids for step in routes])
    foresight = Foresight(ids, learned, placement, placement.experts, rng)
    plan = plan_copies(offload.policy(), foresight, popularity, kept.capacity, homes)
    return OffloadJob(offload.policy(), routes, foresight, popularity, kept, homes, plan)
