"""HBM that a deployment needs on its fullest rank, by kind, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import Infeasible
from moesim.hardware.precision import PRECISIONS
from moesim.model import shapes
from moesim.model.architecture import Attention
from moesim.model.per_token import state_elements
from moesim.units import format_bytes
from moesim.workload.deployment import Batch, Deployment

BF16 = PRECISIONS["bf16"].bytes
FP32 = PRECISIONS["fp32"].bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the fullest rank. reserve: what the framework, graphs and fragmentation keep. capacity: of the HBM."""

    experts: float
    dense_weights: float
    kv_cache: float
    recurrent_state: float
    activations: float
    dispatch_buffers: float
    reserve: float
    capacity: float

    @property
    def needed(self) -> float:
        """Everything but the capacity."""
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, float]:
        """Bytes by kind."""
        kinds = (
            "experts",
            "dense_weights",
            "kv_cache",
            "recurrent_state",
            "activations",
            "dispatch_buffers",
            "reserve",
        )
        return {kind: getattr(self, kind) for kind in kinds}


def footprint(deployment: Deployment, batch: Batch, received: int, *, reserve: float) -> Footprint:
    """HBM of one step.

    received: most tokens that dispatch brings to a rank in one layer, from the replayed routes. reserve: share of the
    capacity that moesim leaves to the framework (vLLM and SGLang use 0.9 of the HBM by default, so 0.1).
    """
    capacity = deployment.machine.device.hbm_bytes
    tokens = int(batch.tokens.max(initial=0))
    hidden, policy = deployment.model.hidden, deployment.precision
    dispatched = deployment.parallelism.attention_dp * deployment.parallelism.cp > 1
    experts = 0.0
    if deployment.placement is not None:
        experts = deployment.placement.slots_per_rank * float(expert_bytes(deployment).sum())
    return Footprint(
        experts=experts,
        dense_weights=_dense_bytes(deployment),
        kv_cache=int(batch.sequences.max(initial=0)) * kv_bytes(deployment, batch.context + batch.new_tokens),
        recurrent_state=int(batch.sequences.max(initial=0)) * state_bytes(deployment),
        # Hidden state, residual, and the widest projection in flight.
        activations=tokens * (2 * hidden + _widest(deployment)) * BF16,
        # Dispatched tokens as received, and expert outputs waiting to be combined.
        dispatch_buffers=received * hidden * (policy.dispatch.bytes + policy.combine.bytes) * dispatched,
        reserve=reserve * capacity,
        capacity=capacity,
    )


def kv_bytes(deployment: Deployment, context: int) -> float:
    """Bytes that one sequence of `context` tokens caches on one tensor-parallel rank, all layers.

    GQA keeps two vectors a KV head of the rank, cut to the window; MLA the latent and the rotary key, whole on every
    rank; linear attention nothing that grows (`state_bytes`).
    """
    tp, kv = deployment.parallelism.tp, deployment.precision.kv.bytes
    attentions = (layer.attention for layer in deployment.model.layers if layer.attention)
    attentions = (attention for attention in attentions if attention.kind != "linear")
    return sum(_KV_BYTES[attention.kind](attention, context, tp, kv) for attention in attentions)


def state_bytes(deployment: Deployment) -> float:
    """Bytes that one sequence keeps in linear attention on one tensor-parallel rank, whatever its length: a matrix a
    head in FP32, and what the short convolution still sees in BF16."""
    tp, total = deployment.parallelism.tp, 0.0
    for layer in deployment.model.layers:
        attention = layer.attention
        if attention is None or attention.kind != "linear":
            continue
        matrices = attention.heads // tp * attention.head_dim * attention.v_head_dim
        total += matrices * FP32 + (state_elements(attention, tp) - matrices) * BF16
    return total


def check_fits(needs: Footprint) -> None:
    """Raise `Infeasible` with the bytes by kind when a rank needs more than its HBM."""
    if needs.needed <= needs.capacity:
        return
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in needs.by_kind().items() if size)
    missing = needs.needed - needs.capacity
    raise Infeasible(
        f"does not fit: the fullest rank needs {format_bytes(needs.needed)} of {format_bytes(needs.capacity)} HBM, "
        f"{missing:.0f} bytes too many ({kinds}); use more devices, fewer sequences a rank, a shorter context, "
        f"fewer expert slots or a narrower precision"
    )


def _gqa_kv(attention: Attention, context: int, tp: int, kv: float) -> float:
    cached = min(context, attention.window) if attention.window else context
    return 2 * max(1, attention.kv_heads // tp) * attention.head_dim * cached * kv


def _mla_kv(attention: Attention, context: int, tp: int, kv: float) -> float:
    # DeepSeek-V3.2's indexer caches one FP8 key a token beside the latent.
    latent = (attention.kv_lora_rank + attention.qk_rope_head_dim) * kv
    return (latent + attention.indexer_head_dim * PRECISIONS["fp8"].bytes) * context


_KV_BYTES = {"gqa": _gqa_kv, "moa": _gqa_kv, "mla": _mla_kv}


def expert_bytes(deployment: Deployment) -> np.ndarray:
    """Bytes [moe_layer] of one expert slot on one rank."""
    model, split = deployment.model, deployment.parallelism.expert_tp
    elements = [
        sum(p.n * p.k for p in shapes.routed_experts(model.layers[layer], model.hidden, split))
        for layer in model.moe_layers
    ]
    return np.array(elements) * deployment.precision.experts.bytes


def _dense_bytes(deployment: Deployment) -> float:
    """Everything that is not a routed expert: attention, shared experts and dense FFNs in the dense format, the rest
    (embedding, head, router) in BF16."""
    model, tp, hidden = deployment.model, deployment.parallelism.tp, deployment.model.hidden
    shared_tp = deployment.parallelism.shared_expert_tp
    dense = rest = 0
    for layer in model.layers:
        dense += sum(p.weights for p in shapes.attention_projections(layer, hidden, tp))
        dense += sum(p.weights for p in shapes.dense_ffn(layer, hidden, tp))
        dense += sum(p.weights for p in shapes.shared_expert(layer, hidden, shared_tp))
        rest += sum(p.weights for p in shapes.router(layer, hidden))
    head = sum(p.weights for p in shapes.head(model, tp))
    rest += head if model.tied_embeddings else 2 * head
    return dense * deployment.precision.dense.bytes + rest * BF16


def _widest(deployment: Deployment) -> int:
    """Output width of the widest product of any layer on one rank."""
    hidden, tp = deployment.model.hidden, deployment.parallelism.tp
    products = [
        p
        for layer in set(deployment.model.layers)
        for p in (*shapes.attention_projections(layer, hidden, tp), *shapes.dense_ffn(layer, hidden, tp))
    ]
    return max((p.n * p.used for p in products), default=0)


def largest_batch(deployment: Deployment, batch: Batch, received: int, *, reserve: float) -> int:
    """Sequences per attention-DP rank that would just fit at this context, dispatch buffers growing along."""
    now = footprint(deployment, batch, received, reserve=reserve)
    sequences = max(1, int(batch.sequences.max(initial=1)))
    per_sequence = (now.kv_cache + now.recurrent_state + now.activations + now.dispatch_buffers) / sequences
    room = now.capacity - now.reserve - now.experts - now.dense_weights
    return max(0, int(np.floor(room / per_sequence))) if per_sequence else 0
