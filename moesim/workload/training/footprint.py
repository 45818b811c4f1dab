"""HBM that training needs on its fullest rank, by kind, and what would make it fit.

Activations (`moesim.workload.training.activations`) stay from a microbatch's forward to its backward, so that their
number follows from the schedule. What sharding divides: ZeRO's table 1 (Rajbhandari et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import Infeasible
from moesim.model import shapes
from moesim.units import format_bytes
from moesim.workload.training.activations import Loads, expert_loads, layer_bytes
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import BF16
from moesim.workload.training.recomputation import LAYER
from moesim.workload.training.routed import Draws
from moesim.workload.training.schedules import BACKWARD, FORWARD, WEIGHT
from moesim.workload.training.weights import Held, end_weights, layer_weights, stage_weights

FP32 = 4.0


@dataclass(frozen=True, slots=True)
class TrainingFootprint:
    """Bytes on the fullest pipeline rank. cast_weights: their narrow copies for products, by rows and by columns.
    logits: of the last stage. reserve: what the framework and fragmentation keep. capacity: of the HBM."""

    weights: float
    cast_weights: float
    master_weights: float
    optimizer_states: float
    gradients: float
    activations: float
    logits: float
    dispatch_buffers: float
    reserve: float
    capacity: float

    def by_kind(self) -> dict[str, float]:
        """Bytes by kind."""
        return {name: getattr(self, name) for name in type(self).__slots__ if name != "capacity"}

    @property
    def needed(self) -> float:
        """Everything but the capacity."""
        return sum(self.by_kind().values())


def training_footprints(
    job: Job, draws: Draws | None, *, reserve: float, fragmentation: float = 0.0
) -> list[TrainingFootprint]:
    """HBM of the fullest rank of each pipeline rank. draws: replayed routes; None before any are, or for a dense model:
    loads are then even. fragmentation: share of activations and buffers that the allocator loses."""
    loads = expert_loads(job, draws)
    return [_of_rank(job, rank, loads, reserve, 1 + fragmentation) for rank in range(job.parallelism.pp)]


def check_fits(job: Job, draws: Draws | None, **shares: float) -> TrainingFootprint:
    """The fullest rank's bytes. shares: reserve and fragmentation.

    Raises `Infeasible` with bytes by kind and what would fit.
    """
    found = training_footprints(job, draws, **shares)
    rank = int(np.argmax([needs.needed for needs in found]))
    fullest = found[rank]
    if fullest.needed <= fullest.capacity:
        return fullest
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in fullest.by_kind().items() if size)
    raise Infeasible(
        f"does not fit: pipeline rank {rank} needs {format_bytes(fullest.needed)} of {format_bytes(fullest.capacity)} "
        f"HBM, {fullest.needed - fullest.capacity:.0f} bytes too many ({kinds}); {_advice(job, draws, shares)}"
    )


def _advice(job: Job, draws: Draws | None, shares: dict[str, float]) -> str:
    """Which changes would be enough: each tried alone, then recomputation with each level of sharding."""
    again = ("recomputation: {kind: full}", {"recompute": frozenset({LAYER})})
    levels = [(f"parallelism.zero: {level}", {"zero": level}) for level in range(job.zero + 1, 4)]
    smaller = {"microbatch": 1, "microbatches": job.microbatches * job.microbatch}
    alone = [again, *levels] + ([("workload.microbatch: 1", smaller)] if job.microbatch > 1 else [])
    enough = [words for words, change in alone if _fits(replace(job, **change), draws, shares)]
    if enough:
        return f"any of these fits: {'; '.join(enough)}"
    for words, change in levels:
        if _fits(replace(job, **again[1], **change), draws, shares):
            return f"together these fit: {again[0]}; {words}"
    return "neither recomputation nor sharding is enough"


def _fits(job: Job, draws: Draws | None, shares: dict[str, float]) -> bool:
    if job.placement is None:
        draws = None
    return all(needs.needed <= needs.capacity for needs in training_footprints(job, draws, **shares))


def _of_rank(job: Job, rank: int, loads: Loads, reserve: float, scattered: float) -> TrainingFootprint:
    formats, stages = job.formats, job.held(rank)
    held = sum((stage_weights(job, stage) for stage in stages), Held())
    ends = sum(end_weights(job, stage).dense for stage in stages)  # embedding and head stay in BF16
    total = held.dense + held.experts
    parallelism = job.parallelism
    holders = len(job.holders(stages[0]))
    dense, experts = parallelism.attention_dp * parallelism.cp * holders, parallelism.expert_dp * holders
    sharded = held.dense / dense + held.experts / experts
    stored = formats.weights.bytes
    kept = sharded if job.zero == 3 else total
    gathered = 0.0
    if job.zero == 3:  # two layers at a time are whole
        layers = [layer_weights(job, index) for stage in stages for index in job.layers(stage)]
        gathered = 2 * max((layer.dense + layer.experts for layer in layers), default=0.0)
    own = sharded if job.zero else total
    states = job.optimizer.matrix_states
    received = loads.entering * job.model.expert_hidden * (parallelism.ep > 1)
    last = len(job.stages) - 1 in stages
    head = shapes.head(job.model, parallelism.tp)[0].n
    return TrainingFootprint(
        weights=(kept + gathered) * stored + ends * max(BF16.bytes - stored, 0.0) * kept / total,
        cast_weights=sum(_cast_bytes(job, index) for stage in stages for index in job.layers(stage)) * kept / total,
        master_weights=own * formats.master_weights.bytes if formats.master_weights else 0.0,
        optimizer_states=own * states * formats.optimizer_states.bytes,
        gradients=(sharded if job.zero >= 2 else total) * formats.gradients.bytes,
        activations=_activations(job, rank, loads) * scattered,
        logits=job.tokens * head * (FP32 + BF16.bytes) * last,
        dispatch_buffers=received * (formats.dispatch.bytes + formats.combine.bytes) * scattered,
        reserve=reserve * job.machine.device.hbm_bytes,
        capacity=job.machine.device.hbm_bytes,
    )


def _cast_bytes(job: Job, index: int) -> float:
    """Narrow copies of a layer's weights for its products: by rows and by columns, of which narrow weights are one."""
    layer, hidden, tp, formats = job.layer(index), job.model.hidden, job.parallelism.tp, job.formats
    copies = 2 if formats.weights.bytes >= BF16.bytes else 1
    elements = {
        formats.attention[0]: sum(p.weights for p in shapes.attention_projections(layer, hidden, tp)),
    }
    for precision, listed in (
        (formats.dense[0], shapes.dense_ffn(layer, hidden, tp)),
        (formats.shared_expert[0], shapes.shared_expert(layer, hidden, tp)),
    ):
        elements[precision] = elements.get(precision, 0) + sum(p.weights for p in listed)
    experts = formats.experts[0]
    elements[experts] = elements.get(experts, 0) + layer_weights(job, index).experts
    return sum(copies * f.bytes * count for f, count in elements.items() if f.bytes < BF16.bytes)


def _activations(job: Job, rank: int, loads: Loads) -> float:
    """Bytes [worst expert-parallel rank] of all passes in flight at the worst moment, and of one layer run again."""
    by_chunk = [sum((layer_bytes(job, i, loads) for i in job.layers(stage)), np.zeros(1)) for stage in job.held(rank)]
    now = most = np.zeros(1)
    for step in job.schedule.orders[rank]:
        now = now + sum((by_chunk[task.chunk] for task in step if task.phase == FORWARD), np.zeros(1))
        most = np.maximum(most, now)
        now = now - sum((by_chunk[task.chunk] for task in step if task.phase in (BACKWARD, WEIGHT)), np.zeros(1))
    again = np.zeros(1)
    if LAYER in job.recompute:
        whole = replace(job, recompute=frozenset())
        layers = [index for stage in job.held(rank) for index in job.layers(stage)]
        again = np.max([layer_bytes(whole, index, loads).max() for index in layers], initial=0.0)
    return float(np.max(most + again))
