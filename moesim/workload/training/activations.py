"""What the backward pass needs of a layer: activations that one microbatch leaves behind.

Inputs of matrix products are kept in the format in which they are multiplied, inputs of element-wise work in BF16
(Korthikanti et al. 2022, section 4.1), but for what recomputation drops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.model.architecture import Attention, Layer
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import BF16
from moesim.workload.training.recomputation import LAYER
from moesim.workload.training.routed import Draws

FP32 = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Of the ranks of an expert-parallel group. pairs: [layer, rank] mean over draws; entering: most of any draw."""

    pairs: np.ndarray | None
    entering: float


def expert_loads(job: Job, draws: Draws | None) -> Loads:
    """Loads of the replayed draws, or even ones."""
    if job.placement is None:
        return Loads(None, 0.0)
    slices = job.parallelism.expert_tp
    if draws is not None:
        return Loads(draws.tokens.sum(axis=-1).mean(axis=0) * slices, float(draws.entering.max()) * slices)
    experts = job.model.layers[job.model.moe_layers[0]].experts
    even = job.owned_tokens * experts.top_k * slices
    shape = (job.moe_rows, job.parallelism.ep)
    return Loads(np.full(shape, float(even)), job.owned_tokens * min(experts.top_k, job.parallelism.ep) * slices)


def layer_bytes(job: Job, index: int, loads: Loads) -> np.ndarray:
    """[ep ranks or 1] bytes that one microbatch leaves in a layer."""
    layer, drop = job.layer(index), job.recompute
    inputs = job.owned_tokens * job.model.hidden
    if LAYER in drop:
        return np.array([inputs * BF16.bytes])
    formats, tp = job.formats, job.parallelism.tp
    total = _attention_bytes(job, layer.attention) if layer.attention else 0.0
    # Of both halves: the residual, and the output of the norm as the next product takes it.
    into = formats.attention[1].bytes + (formats.dense if layer.dense_ffn else formats.shared_expert)[1].bytes
    kept = inputs * (2 * BF16.bytes + into * ("norm" not in drop))
    if layer.dense_ffn and "dense_ffn" not in drop:
        total += _ffn_bytes(job, job.tokens, layer.dense_ffn // tp, layer.dense_gated, formats.dense[1].bytes)
    if layer.experts is None:
        return np.array([total + kept])
    shared = layer.experts.shared_ffn
    if shared and "shared_expert" not in drop:
        total += _ffn_bytes(job, job.tokens, shared // tp, layer.experts.gated, formats.shared_expert[1].bytes)
    total += job.owned_tokens * layer.experts.routed * FP32
    pairs = loads.pairs[min(job.moe_row(index), len(loads.pairs) - 1)] * ("experts" not in drop)
    return total + kept + _expert_bytes(job, layer, pairs)


def _attention_bytes(job: Job, attention: Attention) -> float:
    """Latents, queries, keys and values, and the output, from which its cast for the next product is made again."""
    heads, operand = attention.heads // job.parallelism.tp, job.formats.attention[1].bytes
    if attention.kind == "mla":
        up = heads * (2 * (attention.qk_nope_head_dim + attention.qk_rope_head_dim) + attention.v_head_dim)
        latents = (attention.q_lora_rank + attention.kv_lora_rank + attention.qk_rope_head_dim) * (BF16.bytes + operand)
        output = heads * attention.v_head_dim
    else:
        kv_heads = max(1, attention.kv_heads // job.parallelism.tp)
        value = attention.v_head_dim or attention.head_dim
        up, latents, output = heads * attention.head_dim + kv_heads * (attention.head_dim + value), 0.0, heads * value
    up *= BF16.bytes * _kept("mla_up", job) if attention.kind == "mla" else BF16.bytes
    output += heads * job.sequence * (job.unfused_attention and attention.kind != "linear")  # probabilities
    return job.tokens * (latents + up + output * BF16.bytes * _kept("attention", job))


def _ffn_bytes(job: Job, tokens: object, ffn: int, gated: bool, operand: float) -> object:
    """Inputs of the activation and its output, or the inputs alone where the output is computed again; these may then
    be kept in the narrow format (DeepSeek-V3 report, section 3.3.3)."""
    if "activation" in job.recompute:
        return tokens * ffn * (1 + gated) * min(BF16.bytes, operand)
    return tokens * ffn * ((1 + gated) * BF16.bytes + operand)


def _expert_bytes(job: Job, layer: Layer, pairs: np.ndarray) -> np.ndarray:
    """Permuted tokens and inner activations. Gates are applied to the latter (Megatron-Core), so that their gradients
    need no outputs."""
    experts, operand = layer.experts, job.formats.experts[1].bytes
    inner = _ffn_bytes(job, pairs, experts.ffn // job.parallelism.expert_tp, experts.gated, operand)
    return pairs * job.model.expert_hidden * operand + inner


def _kept(module: str, job: Job) -> bool:
    """Whether what a module makes is kept."""
    return module not in job.recompute
