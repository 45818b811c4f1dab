"""Work that a rank does by itself: the kernels of one layer, priced by the cost floor.

Ranks with equally many sequences do the same work, so costs are computed once for each number of sequences that occurs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moesim.cost.attention import gqa_decode, gqa_prefill
from moesim.cost.estimate import Cost
from moesim.cost.gemm import gemm
from moesim.cost.memory import memory_bound
from moesim.cost.mla import mla_decode, mla_prefill
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model import shapes
from moesim.model.architecture import Attention, Layer
from moesim.model.shapes import Projection
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.routers import ROUTERS, Gate
from moesim.workload.sequences import own_part

BF16 = PRECISIONS["bf16"]

# The output half of attention: what runs after the attention kernel.
_AFTER_ATTENTION = {"v_up", "o"}


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Kernels of one kind, one after another. seconds, low, high: [sequence counts] summed over the kernels.

    Errors of one cost function are fully correlated, so bounds of an interval add up like the estimates.
    """

    kind: str
    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray


def work(kind: str, costs: Iterable[Cost]) -> Work:
    """Sum costs of kernels that run one after another."""
    costs = list(costs)
    return Work(
        kind,
        sum(np.asarray(cost.seconds, dtype=float) for cost in costs),
        sum(np.asarray(cost.low, dtype=float) for cost in costs),
        sum(np.asarray(cost.high, dtype=float) for cost in costs),
    )


def attention_work(deployment: Deployment, layer: Layer, batch: Batch, sequences: np.ndarray) -> list[Work]:
    """Norm, projections, attention kernel and output projection of a layer on one rank, its part of the heads (tensor
    parallelism) and of each sequence (context parallelism).

    sequences: [counts] numbers of sequences to price.
    """
    if layer.attention is None:
        return []
    hidden, tp, cp = deployment.model.hidden, deployment.parallelism.tp, deployment.parallelism.cp
    tokens = -(-sequences * batch.new_tokens // cp)
    products = shapes.attention_projections(layer, hidden, tp, absorbed=batch.phase == "decode")
    before = [p for p in products if p.name not in _AFTER_ATTENTION]
    after = [p for p in products if p.name in _AFTER_ATTENTION]
    divisor, part = own_part(layer.attention, batch, cp)
    normed = -(-tokens // tp) if deployment.sequence_parallel else tokens
    return [
        work("norm", [_norm(deployment, normed)]),
        work("projections", (_product(deployment, "attention", p, tokens) for p in before)),
        work("attention", [_attention(deployment, layer.attention, part, -(-sequences // divisor))]),
        work("projections", (_product(deployment, "attention", p, tokens) for p in after)),
    ]


def dense_ffn_work(deployment: Deployment, layer: Layer, tokens: np.ndarray) -> list[Work]:
    """Dense feed-forward part on one tensor-parallel rank; [] when the layer has none."""
    products = shapes.dense_ffn(layer, deployment.model.hidden, deployment.parallelism.tp)
    return [work("dense_ffn", (_product(deployment, "dense_ffn", p, tokens) for p in products))] if products else []


def shared_expert_work(deployment: Deployment, layer: Layer, tokens: np.ndarray, tp: int) -> list[Work]:
    """Shared experts on the rank's own tokens; [] when the layer has none. tp: ranks that split them."""
    products = shapes.shared_expert(layer, deployment.model.hidden, tp)
    return (
        [work("shared_expert", (_product(deployment, "shared_expert", p, tokens) for p in products))]
        if products
        else []
    )


def router_work(deployment: Deployment, layer: Layer, tokens: np.ndarray) -> list[Work]:
    """Norm in front of the experts, and their choice as the deployment's router makes it."""
    operands = deployment.precision.operands("router")
    gate = Gate(deployment.machine, deployment.model.hidden, layer.experts, tokens, *operands)
    chosen = ROUTERS[deployment.router.kind](gate, **deployment.router.options)
    return [work("router", chosen.costs)]


def head_tokens(batch: Batch, sequences: np.ndarray) -> np.ndarray:
    """Tokens that need the vocabulary: the last of each prompt, all in decode (drafted ones are checked)."""
    return sequences * (batch.new_tokens if batch.phase == "decode" else 1)


def head_work(deployment: Deployment, sequences: np.ndarray) -> Work:
    """Final norm, the product with the vocabulary for each sequence's last token, and sampling (one pass, FP32)."""
    product = shapes.head(deployment.model, deployment.parallelism.tp)[0]
    sampling = memory_bound(deployment.machine, sequences * product.n * PRECISIONS["fp32"].bytes)
    return work("head", [_norm(deployment, sequences), _product(deployment, "head", product, sequences), sampling])


def _product(deployment: Deployment, kind: str, product: Projection, tokens: np.ndarray) -> Cost:
    """A product of one of `DENSE_KINDS`. Batched ones (one a head) cost as one with their joint output: same FLOPs,
    same weights."""
    weights, activations = deployment.precision.operands(kind)
    n = product.n * product.used
    return gemm(deployment.machine, tokens, n, product.k, weights=weights, activations=activations)


def _norm(deployment: Deployment, tokens: np.ndarray) -> Cost:
    """Fused residual add and RMSNorm: reads the block's output and the residual, writes both sums, in BF16."""
    return memory_bound(deployment.machine, 4 * tokens * deployment.model.hidden * BF16.bytes)


def _attention(deployment: Deployment, attention: Attention, batch: Batch, sequences: np.ndarray) -> Cost:
    """The attention kernel over the cache, on one tensor-parallel rank."""
    kernel = _KERNELS[attention.kind]
    return kernel(deployment, attention, batch, sequences, deployment.precision.kv)


def _gqa(deployment: Deployment, attention: Attention, batch: Batch, sequences: np.ndarray, kv: Precision) -> Cost:
    tp = deployment.parallelism.tp
    heads = {"heads": attention.heads // tp, "kv_heads": max(1, attention.kv_heads // tp), "kv": kv}
    heads |= {"head_dim": attention.head_dim, "window": attention.window}
    if batch.phase == "decode":
        # Several new tokens of a sequence read the cache once: kernels pack their queries like heads of one KV head.
        readers, packed = batch.readers
        heads["heads"] *= packed
        context = batch.context + batch.new_tokens
        return gqa_decode(deployment.machine, batch=sequences * readers, context=context, **heads)
    # Kernels are priced causal: where every token sees all of n, two of them score the n² pairs.
    sequences = sequences if batch.causal else 2 * sequences
    return gqa_prefill(deployment.machine, batch=sequences, new_tokens=batch.new_tokens, context=batch.context, **heads)


def _mla(deployment: Deployment, attention: Attention, batch: Batch, sequences: np.ndarray, kv: Precision) -> Cost:
    heads = attention.heads // deployment.parallelism.tp
    if batch.phase == "decode":
        # Sparse attention (DeepSeek-V3.2) reads only the tokens that its indexer keeps.
        longest = batch.context + batch.new_tokens
        context = min(longest, attention.indexer_top_k or longest)
        readers, packed = batch.readers
        return mla_decode(
            deployment.machine,
            batch=sequences * readers,
            context=context,
            heads=heads * packed,
            kv_lora_rank=attention.kv_lora_rank,
            rope_dim=attention.qk_rope_head_dim,
            kv=kv,
        )
    return mla_prefill(
        deployment.machine,
        batch=sequences,
        new_tokens=batch.new_tokens,
        context=batch.context,
        heads=heads,
        qk_dim=attention.qk_nope_head_dim + attention.qk_rope_head_dim,
        v_dim=attention.v_head_dim,
        kv=kv,
    )


def _linear(deployment: Deployment, attention: Attention, batch: Batch, sequences: np.ndarray, kv: Precision) -> Cost:
    """Gated delta net: short convolution, delta rule, gated norm.

    Bytes: the recurrent state of every head (FP32) is read and written once a chunk of 64 tokens; queries, keys and
    values enter and leave the convolution and enter the delta rule; its output passes the gated norm; the convolution's
    own state is read and written. Three kernels in decode, eight with chunks: convolution, cumulated decay, scores,
    triangular solve, corrected keys and values, states, outputs, norm (flash-linear-attention, whose chunk is 64).
    Nobody's measurement stands behind this one: bytes at the reached bandwidth of element-wise kernels.
    """
    tp = deployment.parallelism.tp
    state = attention.heads // tp * attention.head_dim * attention.v_head_dim
    values = attention.heads // tp * attention.v_head_dim
    channels = 2 * attention.kv_heads // tp * attention.head_dim + values
    tokens = sequences * batch.new_tokens
    chunks = -(-batch.new_tokens // 64)
    moved = 2 * sequences * chunks * state * PRECISIONS["fp32"].bytes
    moved = moved + (tokens * (3 * channels + 4 * values) + 2 * sequences * (attention.conv_kernel - 1) * channels) * 2
    return memory_bound(deployment.machine, moved, kernels=3 if batch.phase == "decode" else 8)


_KERNELS = {"gqa": _gqa, "moa": _gqa, "mla": _mla, "linear": _linear}
