"""How many weights a rank holds of each layer: what optimizers, reductions and memory count."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.model import shapes
from moesim.model.architecture import Layer
from moesim.workload.training.job import Job


@dataclass(frozen=True, slots=True)
class Held:
    """Elements on one rank. dense: everything but the routed experts. experts: of the rank's slots."""

    dense: float = 0.0
    experts: float = 0.0

    def __add__(self, more: Held) -> Held:
        return Held(self.dense + more.dense, self.experts + more.experts)


def layer_weights(job: Job, index: int) -> Held:
    """One layer, or one multi-token-prediction module with its projection."""
    layer, tp = job.layer(index), job.parallelism.tp
    matrices = sum(p.weights for p in dense_matrices(job, layer))
    vectors = job.model.norms_per_layer * job.model.hidden
    extra = 2 * job.model.hidden**2 // tp if index >= len(job.model.layers) else 0
    return Held(matrices + vectors + extra, _experts(job, layer))


def end_weights(job: Job, virtual_stage: int) -> Held:
    """Embedding of the first stage, final norm and head of the last (a tied head is held on both, as Megatron does)."""
    head = sum(p.weights for p in shapes.head(job.model, job.parallelism.tp))
    last = len(job.stages) - 1
    first = head if virtual_stage == 0 else 0
    tail = head + job.model.hidden if virtual_stage == last and (last > 0 or not job.model.tied_embeddings) else 0
    if virtual_stage == last and job.mtp_layers and job.holders(last) != job.holders(0):
        tail += head  # the modules embed tokens again; DualPipe has the embedding on the same rank
    return Held(first + tail)


def stage_weights(job: Job, virtual_stage: int) -> Held:
    """Everything of one virtual stage."""
    return sum((layer_weights(job, index) for index in job.layers(virtual_stage)), end_weights(job, virtual_stage))


def dense_matrices(job: Job, layer: Layer) -> tuple[shapes.Projection, ...]:
    """Matrices of a layer outside its routed experts, as one rank holds them."""
    hidden, tp = job.model.hidden, job.parallelism.tp
    return (
        *shapes.attention_projections(layer, hidden, tp),
        *shapes.dense_ffn(layer, hidden, tp),
        *shapes.shared_expert(layer, hidden, tp),
        *shapes.router(layer, hidden),
    )


def expert_matrices(job: Job, layer: Layer) -> tuple[shapes.Projection, ...]:
    """Matrices of one routed expert, as one rank holds them."""
    listed = shapes.routed_experts(layer, job.model.hidden, job.parallelism.expert_tp)
    return tuple(shapes.Projection(p.name, p.n, p.k, p.split) for p in listed)


def _experts(job: Job, layer: Layer) -> float:
    if layer.experts is None or job.placement is None:
        return 0.0
    return job.placement.slots_per_rank * sum(p.weights for p in expert_matrices(job, layer))
