"""Decode steps with offloaded experts as one program: copies run beside compute, and compute waits for what is missing.

In each MoE layer, once the tokens are routed (and dispatched),

    copy stream      fetch experts that are missing │ copy ahead what the next layer is thought to need
    compute stream   shared expert │ resident experts │ … stall … │ experts that were copied

so a layer stalls as long as its copies, less what ran beside them. The copy engine works in order: a wrong guess delays
the next layer's fetches. A rank that misses nothing still waits for its own copy engine where another rank misses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim import units
from moesim.cost.experts import routed_experts
from moesim.engine.program import Op, Program
from moesim.engine.timeline import Track
from moesim.workload.deployment import Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.offload.plan import Plan
from moesim.workload.parts import MoEBlock, Piece

WAITING = "experts"  # kind of the operations that may wait for copies


@dataclass(frozen=True, slots=True, eq=False)
class ExpertSeconds:
    """Seconds [step, layer, rank] of the experts that were in HBM, and of those that had to be copied."""

    resident: np.ndarray
    copied: np.ndarray


def expert_seconds(deployment: Deployment, plan: Plan, entering: int) -> ExpertSeconds:
    """Price the experts of all steps. entering: tokens that enter the kernel on a rank when every rank holds all."""
    here = plan.residency.hits
    parts = []
    for chosen in (here, plan.residency.touched & ~here):
        pairs = (plan.tokens * chosen)[:, :, deployment.parallelism.ep_index]  # [step, layer, device, slot]
        seconds = np.zeros(pairs.shape[:3])
        kinds = [layer.experts for layer in deployment.model.layers if layer.experts is not None]
        for experts in dict.fromkeys(kinds):
            rows = [row for row, kind in enumerate(kinds) if kind == experts]
            known = {}
            if deployment.parallelism.attention_dp == 1:
                known = {"entering": np.full(pairs[:, rows].shape[:3], entering), "top_k": experts.top_k}
            cost = routed_experts(
                deployment.machine,
                pairs[:, rows],
                hidden=deployment.model.hidden,
                ffn=experts.ffn // deployment.parallelism.expert_tp,
                gated=experts.gated,
                weights=deployment.precision.experts,
                activations=deployment.precision.expert_activations,
                **known,
            )
            seconds[:, rows] = cost.seconds
        parts.append(seconds)
    return ExpertSeconds(*parts)


def offloaded(deployment: Deployment, plan: Plan, seconds: ExpertSeconds, step: int) -> Callable:
    """What emits the MoE blocks of one step, in the order of the layers; `moesim.workload.overlap.per_block` makes an
    overlap of it."""
    here = deployment.parallelism.ep_index
    order = {layer: row for row, layer in enumerate(deployment.model.moe_layers)}
    ahead: dict[int, tuple[int, ...]] = {}  # copies under way for a MoE layer

    def emit_block(emit: Emitter, block: MoEBlock, after: tuple[int, ...]) -> tuple[int, ...]:
        row = order[block.layer]
        (chunk,) = block.chunks
        after = (emit.piece(block.router, block.layer, after),)
        if chunk.dispatch is not None:
            after = (emit.piece(chunk.dispatch.whole, block.layer, after),)
        after = _row(emit, block.layer, chunk.gather, after)
        copies = ahead.pop(row, ()) if plan.covered[step, row].any() else ()  # nobody waits for wrong guesses
        copies += _copy(emit, "fetch", block.layer, plan.fetch_s[step, row, here], after)
        if row + 1 < len(order):
            following = deployment.model.moe_layers[row + 1]
            ahead[row + 1] = _copy(emit, "prefetch", following, plan.prefetch_s[step, row + 1, here], after)
        if block.shared is not None:
            emit.piece(block.shared, block.layer)
        if seconds.resident[step, row].any():
            after = (emit.compute(WAITING, block.layer, seconds.resident[step, row], after),)
        if copies or seconds.copied[step, row].any():
            after = (emit.compute(WAITING, block.layer, seconds.copied[step, row], (*after, *copies)),)
        after = _row(emit, block.layer, chunk.scatter, after)
        if chunk.combine is not None:
            after = (emit.piece(chunk.combine.whole, block.layer, after),)
        return after

    return emit_block


def _row(emit: Emitter, layer: int, pieces: Sequence[Piece], after: tuple[int, ...]) -> tuple[int, ...]:
    for piece in pieces:
        after = (emit.piece(piece, layer, after),)
    return after


def _copy(emit: Emitter, kind: str, layer: int, seconds: np.ndarray, after: tuple[int, ...]) -> tuple[int, ...]:
    return (emit.copy(kind, layer, seconds, after),) if seconds.any() else ()


def join(programs: Sequence[Program]) -> Program:
    """Programs of the same ranks one after another: a stream of one ends before the same stream of the next begins."""
    ops: list[Op] = []
    for program in programs:
        shift = len(ops)
        # Nothing of a step begins before the step before has sampled its tokens.
        first = (shift - 1,) if ops else ()
        ops += [replace(op, after=tuple(index + shift for index in op.after) or first) for op in program.ops]
    return Program(programs[0].ranks, tuple(ops))


def stalls(track: Track) -> np.ndarray:
    """Seconds [op, rank] that each operation waited for copies after everything else it needs was there."""
    ops = track.program.ops
    wait = np.zeros(track.end.shape)
    last: dict[str, int] = {}
    for index, op in enumerate(ops):
        copies = [before for before in op.after if ops[before].stream == "copy"]
        if copies:
            others = [before for before in op.after if ops[before].stream != "copy"]
            others += [last[op.stream]] if op.stream in last else []
            ready = track.end[others].max(axis=0) if others else np.zeros(track.end.shape[1], dtype=np.int64)
            wait[index] = np.maximum(units.seconds(track.end[copies].max(axis=0) - ready), 0.0)
        last[op.stream] = index
    return wait
