"""Decode steps that draft tokens and check them: multi-token prediction, a draft model, or a lookup.

A step drafts k tokens of every sequence one after another, then runs the model once on k + 1 of each: those drafted and
the one before them. If each is kept with chance a given that those before it are, a sequence gains

    1 + a + a² + … + aᵏ = (1 − aᵏ⁺¹) / (1 − a)

tokens a step (Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding, equation 1). The step
itself gets dearer: k + 1 times the tokens touch more experts, and drafting costs its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.gemm import gemm
from moesim.cost.memory import memory_bound
from moesim.engine.program import Program
from moesim.errors import InvalidInput, Problem
from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import MoEModel
from moesim.routing.replay import Routes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.footprint import Footprint, footprint
from moesim.workload.inference import Step, inference_steps
from moesim.workload.local import Work, work
from moesim.workload.offload.program import join

BF16 = PRECISIONS["bf16"]
DRAFTED = "draft_projection"  # kind of what joins a token and its hidden state before the MTP layer


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """How tokens are drafted. tokens: k, of every sequence in a step. acceptance: a.

    deployment: of the model that drafts, on the same ranks; None when drafting costs nothing (a lookup).
    shares_ends: it is the model's own MTP layer, fed by its last hidden state, with its embedding and head.
    """

    tokens: int
    acceptance: float
    deployment: Deployment | None
    shares_ends: bool = False

    @property
    def accepted(self) -> float:
        """Mean tokens that a sequence gains in a step."""
        return float(sum(self.acceptance**kept for kept in range(self.tokens + 1)))


def mtp_deployment(deployment: Deployment) -> Deployment:
    """The model's MTP layer as a model of one layer like the last (DeepSeek-V3 report, section 2.2), run as often as
    tokens are drafted. Raises InvalidInput when the model has none."""
    model, placement = deployment.model, deployment.placement
    if not model.mtp_layers:
        raise InvalidInput(
            Problem(f"{model.name} has no MTP layer; write {{kind: model, model: …}} or {{kind: lookup}}", "draft.kind")
        )
    own = replace(model, name=f"{model.name}-mtp", layers=model.layers[-1:], mtp_layers=0)
    if placement is not None:
        bound = None if placement.bound is None else placement.bound[-1:]
        placement = replace(placement, expert=placement.expert[-1:], bound=bound)
    return replace(deployment, model=own, placement=placement, stage_layers=())


def model_deployment(deployment: Deployment, model: MoEModel) -> Deployment:
    """A dense draft model, split as the model is. Raises InvalidInput for one with experts: no trace has its routes."""
    if model.moe_layers:
        raise InvalidInput(Problem(f"{model.name} has routed experts; write a dense model", "draft.model"))
    return replace(deployment, model=model, placement=None, stage_layers=())


def speculative_step(
    deployment: Deployment, draft: Draft, batch: Batch, routes: Routes | None, overlap: Callable
) -> tuple[Step, int]:
    """One step: k drafts in a row, then the check. Also the number of operations that draft.

    batch: of the check, ``new_tokens`` = k + 1. routes: of all its tokens.
    """
    check = inference_steps(deployment, batch, [routes], [overlap])[0]
    if draft.deployment is None:
        return check, 0
    one = replace(batch, new_tokens=1)
    routed = [_of_draft(draft, batch, routes, token) for token in range(draft.tokens)]
    drafts = inference_steps(draft.deployment, one, routed, [overlap] * draft.tokens)
    total = dict(drafts[0].work)
    programs = [step.program for step in drafts]
    if draft.shares_ends:
        joined, entry = _entry(draft.deployment, one)
        programs = [program for step in programs for program in (entry, step)]
        total = _summed(total, {DRAFTED: joined}, draft.tokens)
    drafting = join(programs)
    return (
        replace(check, programs=(join([drafting, check.program]),), work=_summed(check.work, total)),
        len(drafting.ops),
    )


def speculative_footprint(needs: Footprint, draft: Draft, batch: Batch) -> Footprint:
    """HBM with the draft model's weights and cache beside the model's."""
    if draft.deployment is None:
        return needs
    own = footprint(draft.deployment, replace(batch, new_tokens=1), 0, reserve=0.0)
    dense = own.dense_weights
    if draft.shares_ends:
        entry = 2 * draft.deployment.model.hidden**2 * draft.deployment.precision.dense.bytes
        dense += entry - own.embedding_head
    return replace(
        needs,
        experts=needs.experts + own.experts,
        draft_weights=dense,
        kv_cache=needs.kv_cache + own.kv_cache,
        recurrent_state=needs.recurrent_state + own.recurrent_state,
    )


def _of_draft(draft: Draft, batch: Batch, routes: Routes | None, token: int) -> Routes | None:
    """Routes of one drafted token of every sequence in the MTP layer: those of the model's last MoE layer."""
    if routes is None or draft.deployment.placement is None:
        return None
    mine = slice(token, None, batch.new_tokens)
    count = None if routes.count is None else routes.count[-1:, mine]
    return replace(routes, ids=routes.ids[-1:, mine], count=count, offsets=routes.offsets // batch.new_tokens)


def _entry(deployment: Deployment, batch: Batch) -> tuple[Work, Program]:
    """Norms of the embedding and the hidden state, and the product of both together with [2 · hidden, hidden]."""
    hidden, policy, tokens = deployment.model.hidden, deployment.precision, batch.sequences
    norms = memory_bound(deployment.machine, 4 * tokens * hidden * BF16.bytes, kernels=2)
    product = gemm(deployment.machine, tokens, hidden, 2 * hidden, weights=policy.dense, activations=policy.activations)
    entry = work(DRAFTED, [norms, product])
    emit = Emitter(np.arange(deployment.cluster.ranks))
    everywhere = np.tile(deployment.parallelism.dp_index, deployment.instances)
    emit.compute(DRAFTED, -1, entry.seconds[everywhere])
    slowest = Work(DRAFTED, *(float(part.max()) for part in (entry.seconds, entry.low, entry.high)))
    return slowest, emit.program()


def _summed(first: dict[str, Work], second: dict[str, Work], times: int = 1) -> dict[str, Work]:
    """Costs of both by kind; those of the second so many times."""
    total = dict(first)
    for kind, more in second.items():
        old = total.get(kind, Work(kind, 0.0, 0.0, 0.0))
        parts: Sequence[float] = [
            getattr(old, part) + times * getattr(more, part) for part in ("seconds", "low", "high")
        ]
        total[kind] = Work(kind, *parts)
    return total
