"""Bytes on the fullest rank of a stage: weights outside the experts, activations, and what dispatch keeps."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.cost.exchange_memory import buffer_bytes
from moesim.hardware.precision import PRECISIONS
from moesim.model import shapes
from moesim.model.architecture import Layer
from moesim.workload import local
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.exchange import most_held
from moesim.workload.stage import Stage

BF16 = PRECISIONS["bf16"].bytes
FP32 = PRECISIONS["fp32"].bytes


def activation_bytes(deployment: Deployment, stage: Stage, batch: Batch, layers: Sequence[Layer]) -> float:
    """Hidden state, residual (split under sequence parallelism) and the widest projection in flight of a micro-batch;
    what the next one brings from the stage before; logits in FP32."""
    p, hidden = stage.parallelism, deployment.model.hidden
    tokens = -(-int(batch.tokens.max(initial=0)) // p.cp)
    residual = hidden / p.tp if deployment.sequence_parallel else hidden
    size = tokens * (hidden + residual + _widest(layers, hidden, p.tp)) * BF16
    if stage.index:
        size += tokens * hidden * BF16
    if stage.last:
        sampled = int(local.head_tokens(batch, batch.sequences).max(initial=0))
        size += sampled * shapes.head(deployment.model, p.tp)[0].n * FP32
    return size


def dispatch_bytes(deployment: Deployment, stage: Stage, batch: Batch, received: int) -> float:
    """What dispatch and combine keep on the rank that receives most."""
    if stage.alone:
        return 0.0
    p, policy, hidden = stage.parallelism, deployment.precision, deployment.model.hidden
    gathered = received * hidden * (policy.dispatch.bytes + policy.combine.bytes)
    if p.ep == 1:  # nothing is dispatched, tokens are gathered
        return gathered
    owned = most_held(stage, batch)
    return buffer_bytes(
        deployment.kernel,
        tokens=owned,
        ranks=p.ep,
        slots=deployment.placement.slots_per_rank,
        hidden=hidden,
        received=received,
        dispatch=policy.dispatch,
        combine=policy.combine,
    ) + (gathered if p.expert_tp > 1 else 0.0)


def dense_bytes(deployment: Deployment, stage: Stage, layers: Sequence[Layer]) -> dict[str, float]:
    """Weights by kind that are no routed expert, each in its format. The embedding stands on the first stage, in BF16;
    the head on the last, which shares the embedding's matrix where weights are tied and both are there."""
    model, p, policy = deployment.model, stage.parallelism, deployment.precision
    listings = {
        "attention": lambda layer: shapes.attention_projections(layer, model.hidden, p.tp),
        "shared_expert": lambda layer: shapes.shared_expert(layer, model.hidden, p.shared_expert_tp),
        "dense_ffn": lambda layer: shapes.dense_ffn(layer, model.hidden, p.tp),
        "router": lambda layer: shapes.router(layer, model.hidden),
    }
    size = {
        kind: sum(product.weights for layer in layers for product in listing(layer)) * policy.operands(kind)[0].bytes
        for kind, listing in listings.items()
    }
    vocabulary = sum(product.weights for product in shapes.head(model, p.tp))
    ends = vocabulary * BF16 if stage.index == 0 else 0.0
    if stage.last and not (model.tied_embeddings and stage.index == 0):
        ends += vocabulary * policy.operands("head")[0].bytes
    return {
        "attention": size["attention"],
        "shared_experts": size["shared_expert"],
        "dense_ffn": size["dense_ffn"],
        "routers": size["router"],
        "embedding_head": ends,
    }


def _widest(layers: Sequence[Layer], hidden: int, tp: int) -> int:
    """Output width of the widest product of any layer on one rank."""
    products = [
        p
        for layer in set(layers)
        for p in (*shapes.attention_projections(layer, hidden, tp), *shapes.dense_ffn(layer, hidden, tp))
    ]
    return max((p.n * p.used for p in products), default=0)
