"""HBM that a deployment needs on its fullest rank, by kind, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from moesim.errors import Infeasible
from moesim.hardware.precision import PRECISIONS
from moesim.model import shapes
from moesim.model.architecture import Attention, Layer
from moesim.model.per_token import state_elements
from moesim.units import format_bytes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint_parts import activation_bytes, dense_bytes, dispatch_bytes
from moesim.workload.stage import Stage, stages_of

BF16 = PRECISIONS["bf16"].bytes
FP32 = PRECISIONS["fp32"].bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the fullest rank.

    experts … embedding_head: weights by kind; draft_weights: of what drafts tokens. recurrent_state: of linear
    attention. fragmentation: of activations and buffers. reserve: what the framework and its graphs keep. capacity: of
    the HBM.
    """

    experts: float
    attention: float
    shared_experts: float
    dense_ffn: float
    routers: float
    embedding_head: float
    kv_cache: float
    recurrent_state: float
    activations: float
    dispatch_buffers: float
    reserve: float
    capacity: float
    draft_weights: float = 0.0
    fragmentation: float = 0.0

    @property
    def needed(self) -> float:
        """Everything but the capacity."""
        return sum(self.by_kind().values())

    @property
    def dense_weights(self) -> float:
        """Weights that are no routed expert."""
        own = self.attention + self.shared_experts + self.dense_ffn + self.routers + self.embedding_head
        return own + self.draft_weights

    def by_kind(self) -> dict[str, float]:
        """Bytes by kind."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "capacity"}


def footprint(
    deployment: Deployment,
    batch: Batch,
    received: int,
    *,
    reserve: float,
    fragmentation: float = 0.0,
    kv_block: int = 1,
) -> Footprint:
    """HBM of one step, on the fullest rank of the fullest pipeline stage.

    received: most tokens that dispatch brings to a rank in one layer, from the replayed routes. reserve: share of the
    capacity that moesim leaves to the framework (vLLM and SGLang use 0.9 of the HBM by default, so 0.1). fragmentation:
    share of activations and buffers that the allocator loses. kv_block: tokens of a block of the paged cache, of which
    every sequence leaves part of the last one empty.
    """
    found = [
        _stage(deployment, stage, batch, received, reserve, fragmentation, kv_block) for stage in stages_of(deployment)
    ]
    return max(found, key=lambda each: each.needed)


def _stage(
    deployment: Deployment,
    stage: Stage,
    batch: Batch,
    received: int,
    reserve: float,
    fragmentation: float,
    kv_block: int,
) -> Footprint:
    capacity = deployment.machine.device.hbm_bytes
    layers = [deployment.model.layers[index] for index in stage.layers]
    experts = 0.0
    if deployment.placement is not None:
        here = [index in stage.layers for index in deployment.model.moe_layers]
        experts = deployment.placement.slots_per_rank * float(expert_bytes(deployment)[here].sum())
    part = replace(batch, sequences=-(-batch.sequences // deployment.microbatches))
    activations = activation_bytes(deployment, stage, part, layers)
    buffers = dispatch_bytes(deployment, stage, part, received) if any(layer.experts for layer in layers) else 0.0
    return Footprint(
        experts=experts,
        **dense_bytes(deployment, stage, layers),
        kv_cache=_cache(deployment, batch, layers, kv_block),
        recurrent_state=_states(deployment, batch, layers),
        activations=activations,
        dispatch_buffers=buffers,
        fragmentation=fragmentation * (activations + buffers),
        reserve=reserve * capacity,
        capacity=capacity,
    )


def kv_bytes(deployment: Deployment, context: int, layers: Sequence[Layer] | None = None) -> float:
    """Bytes that one sequence of `context` tokens caches on one tensor-parallel rank, in all layers or those given.

    GQA keeps two vectors a KV head of the rank, cut to the window; MLA the latent and the rotary key, whole on every
    rank; linear attention nothing that grows (`state_bytes`).
    """
    tp, kv = deployment.parallelism.tp, deployment.precision.kv.bytes
    layers = deployment.model.layers if layers is None else layers
    attentions = (layer.attention for layer in layers if layer.attention and layer.attention.kind != "linear")
    return sum(_KV_BYTES[attention.kind](attention, context, tp, kv) for attention in attentions)


def state_bytes(deployment: Deployment, layers: Sequence[Layer] | None = None) -> float:
    """Bytes that one sequence keeps in linear attention on one tensor-parallel rank, whatever its length: a matrix a
    head in FP32, and what the short convolution still sees in BF16."""
    tp, total = deployment.parallelism.tp, 0.0
    for layer in deployment.model.layers if layers is None else layers:
        attention = layer.attention
        if attention is None or attention.kind != "linear":
            continue
        matrices = attention.heads // tp * attention.head_dim * attention.v_head_dim
        total += matrices * FP32 + (state_elements(attention, tp) - matrices) * BF16
    return total


def check_fits(needs: Footprint, remedies: Callable[[], Sequence[str]] = tuple) -> None:
    """Raise `Infeasible` with the bytes by kind when a rank needs more than its HBM.

    remedies: computes what would fit, one sentence each (`moesim.workload.remedies`).
    """
    if needs.needed <= needs.capacity:
        return
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in needs.by_kind().items() if size)
    missing = needs.needed - needs.capacity
    found = list(remedies())
    change = "; this would fit: " + "; or ".join(found) if found else (
        "; use more devices, fewer sequences a rank, a shorter context, fewer expert slots or a narrower precision"
    )  # fmt: skip
    raise Infeasible(
        f"does not fit: the fullest rank needs {format_bytes(needs.needed)} of {format_bytes(needs.capacity)} HBM, "
        f"{missing:.0f} bytes too many ({kinds}){change}"
    )


def _cache(deployment: Deployment, batch: Batch, layers: Sequence[Layer], kv_block: int) -> float:
    """KV cache of all sequences of a replica on one rank; context parallelism divides the tokens of each."""
    own = -(-(batch.context + batch.new_tokens) // deployment.parallelism.cp)
    tokens = -(-own // kv_block) * kv_block
    return int(batch.sequences.max(initial=0)) * kv_bytes(deployment, tokens, layers)


def _states(deployment: Deployment, batch: Batch, layers: Sequence[Layer]) -> float:
    """States of linear attention, whose sequences context parallelism deals out."""
    return -(-int(batch.sequences.max(initial=0)) // deployment.parallelism.cp) * state_bytes(deployment, layers)


def _gqa_kv(attention: Attention, context: int, tp: int, kv: float) -> float:
    cached = min(context, attention.window) if attention.window else context
    return 2 * max(1, attention.kv_heads // tp) * attention.head_dim * cached * kv


def _mla_kv(attention: Attention, context: int, tp: int, kv: float) -> float:
    # DeepSeek-V3.2's indexer caches one FP8 key a token beside the latent.
    latent = (attention.kv_lora_rank + attention.qk_rope_head_dim) * kv
    return (latent + attention.indexer_head_dim * PRECISIONS["fp8"].bytes) * context


_KV_BYTES = {"gqa": _gqa_kv, "moa": _gqa_kv, "mla": _mla_kv}


def expert_bytes(deployment: Deployment) -> np.ndarray:
    """Bytes [moe_layer] of one routed expert, or of a rank's part of it."""
    model, split = deployment.model, deployment.parallelism.expert_tp
    elements = [
        sum(p.n * p.k for p in shapes.routed_experts(model.layers[layer], model.hidden, split))
        for layer in model.moe_layers
    ]
    return np.array(elements) * deployment.precision.experts.bytes


def largest_batch(deployment: Deployment, batch: Batch, received: int, **memory: float) -> int:
    """Sequences per attention-DP rank that would just fit at this context; what dispatch brings grows along.

    memory: as `footprint` takes it.
    """
    now = max(1, int(batch.sequences.max(initial=1)))

    def fits(sequences: int) -> bool:
        grown = replace(batch, sequences=np.full(batch.sequences.shape, sequences))
        needs = footprint(deployment, grown, -(-received * sequences // now), **memory)
        return needs.needed <= needs.capacity

    return largest(fits)


def largest(fits: Callable[[int], bool], most: int = 2**31) -> int:
    """The largest number from 0 to `most` that fits, where all below it do."""
    if not fits(1):
        return 0
    low = 1
    while 2 * low < most and fits(2 * low):
        low *= 2
    high = min(2 * low, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
