"""Attention of a layer under context parallelism: every rank has part of each sequence.

Prefill. A rank's queries attend to the keys and values of the whole sequence, which come to it in one of two ways:

- ``ring``: cp steps; in each the rank attends to one part while the next comes from its neighbour (ring attention,
  Liu et al. 2023).
- ``all_gather``: all parts at once, before attention (Llama 3 report, section 3.3.2).

What travels are keys and values as attention reads them (for MLA after up-projection, so that no work is done twice),
in BF16, and what earlier steps have cached, in the cache's format. Sliding windows only need their neighbours' tokens;
linear attention hands on its state.

Decode. The cache of every sequence is spread over the ranks. Queries are gathered, each rank attends to its part, and
partial outputs are rescaled by their softmax sums (FP32) and reduce-scattered (Helix parallelism, Bhatia et al. 2025;
vLLM's decode context parallel).
"""

from __future__ import annotations

import numpy as np

from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import Attention
from moesim.model.per_token import cached_elements, state_elements
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.exchange import Exchange
from moesim.workload.parts import Piece, Row
from moesim.workload.stage import Stage

BF16, FP32 = PRECISIONS["bf16"].bytes, PRECISIONS["fp32"].bytes
EXCHANGES = ("ring", "all_gather")
KIND = "context_exchange"


def spread_attention(
    deployment: Deployment, stage: Stage, batch: Batch, exchange: Exchange, attention: Attention, kernel: Piece
) -> Row:
    """The attention kernel [one rank's share] with what context parallelism puts around it; pieces of a tuple run
    beside each other."""
    p = stage.parallelism
    if p.cp == 1:
        return (kernel,)
    if batch.phase == "decode":
        if attention.kind == "linear":  # states stay with the owner of their sequence
            return (kernel,)
        gathered, scattered = _decode_bytes(deployment, batch, attention, p.tp)
        groups = p.cp_groups
        return (
            exchange.collective("all_gather", groups, gathered, name=KIND),
            kernel,
            exchange.collective("reduce_scatter", groups, scattered, name=KIND),
        )
    size = _prefill_bytes(deployment, batch, attention, p.tp, p.cp)
    if deployment.context_exchange == "all_gather" or attention.kind == "linear":
        return (exchange.collective("all_gather", p.cp_groups, size, name=KIND), kernel)
    part = Piece(kernel.kind, kernel.seconds / p.cp)
    sources, targets = p.cp_groups.ravel(), np.roll(p.cp_groups, -1, axis=1).ravel()
    steps = [(exchange.message(KIND, sources, targets, size / p.cp), part) for _ in range(p.cp - 1)]
    return (*steps, part)


def _prefill_bytes(deployment: Deployment, batch: Batch, attention: Attention, tp: int, cp: int) -> float:
    """Keys and values of all parts of a replica's sequences on one tensor-parallel rank."""
    sequences = float(batch.sequences.max(initial=0))
    if attention.kind == "linear":
        return sequences * state_elements(attention, tp) * FP32 * cp
    if attention.kind == "mla":
        heads = attention.heads // tp
        element = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim) * BF16
    else:
        element = cached_elements(attention, tp) * BF16
    # Each of the two runs that a rank has looks back over one window.
    needed = 2 * attention.window * cp / (cp - 1) if attention.window else np.inf
    fresh = min(batch.new_tokens, needed)
    earlier = min(batch.context, needed - fresh)
    cached = cached_elements(attention, tp) * deployment.precision.kv.bytes
    return sequences * (fresh * element + earlier * cached)


def _decode_bytes(deployment: Deployment, batch: Batch, attention: Attention, tp: int) -> tuple[float, float]:
    """(queries and new cache entries, partial outputs with their softmax sums) of a replica on one tensor-parallel
    rank."""
    tokens, heads = float(batch.tokens.max(initial=0)), attention.heads // tp
    if attention.kind == "mla":
        query, output = attention.kv_lora_rank + attention.qk_rope_head_dim, attention.kv_lora_rank
    else:
        query = output = attention.head_dim
    cached = cached_elements(attention, tp) * deployment.precision.kv.bytes
    return tokens * (heads * query * BF16 + cached), tokens * heads * (output * BF16 + FP32)
