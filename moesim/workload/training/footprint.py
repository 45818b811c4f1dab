"""HBM that training needs on its fullest rank, by kind, and what would make it fit.

Activations are what the backward pass needs: inputs of matrix products in the format in which they are multiplied,
inputs of element-wise work in BF16. They stay from a microbatch's forward to its backward, so that their number follows
from the schedule. Sources: Korthikanti et al. 2022, section 4.1, for what a transformer layer keeps; ZeRO's table 1
(Rajbhandari et al. 2020) for what sharding divides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import Infeasible
from moesim.model import shapes
from moesim.model.architecture import Attention, Layer
from moesim.units import format_bytes
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
    loads = _loads(job, draws)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Loads:
    """Of the ranks of an expert-parallel group. pairs: [layer, rank] mean over draws; entering: most of any draw."""

    pairs: np.ndarray | None
    entering: float


def _loads(job: Job, draws: Draws | None) -> _Loads:
    if job.placement is None:
        return _Loads(None, 0.0)
    slices = job.parallelism.expert_tp
    if draws is not None:
        return _Loads(draws.tokens.sum(axis=-1).mean(axis=0) * slices, float(draws.entering.max()) * slices)
    experts = job.model.layers[job.model.moe_layers[0]].experts
    even = job.owned_tokens * experts.top_k * slices
    shape = (job.moe_rows, job.parallelism.ep)
    return _Loads(np.full(shape, float(even)), job.owned_tokens * min(experts.top_k, job.parallelism.ep) * slices)


def _of_rank(job: Job, rank: int, loads: _Loads, reserve: float, scattered: float) -> TrainingFootprint:
    formats, stages = job.formats, job.held(rank)
    held = sum((stage_weights(job, stage) for stage in stages), Held())
    ends = sum(end_weights(job, stage).dense for stage in stages)  # embedding and head stay in BF16
    total = held.dense + held.experts
    parallelism = job.parallelism
    holders = len(job.holders(stages[0]))
    dense, experts = parallelism.attention_dp * parallelism.cp * holders, parallelism.expert_dp * holders
    sharded = held.dense / dense + held.experts / experts
    stored = formats.weights.bytes
    copies = 2 if stored >= BF16.bytes else 1  # narrow weights are themselves the copy by rows
    narrow = {f: copies * f.bytes * (f.bytes < BF16.bytes) for f in (formats.dense, formats.experts)}
    cast = (held.dense - ends) * narrow[formats.dense] + held.experts * narrow[formats.experts]
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
        cast_weights=cast * kept / total,
        master_weights=own * formats.master_weights.bytes if formats.master_weights else 0.0,
        optimizer_states=own * states * formats.optimizer_states.bytes,
        gradients=(sharded if job.zero >= 2 else total) * formats.gradients.bytes,
        activations=_activations(job, rank, loads) * scattered,
        logits=job.tokens * head * (FP32 + BF16.bytes) * last,
        dispatch_buffers=received * (formats.dispatch.bytes + formats.combine.bytes) * scattered,
        reserve=reserve * job.machine.device.hbm_bytes,
        capacity=job.machine.device.hbm_bytes,
    )


def _activations(job: Job, rank: int, loads: _Loads) -> float:
    """Bytes [worst expert-parallel rank] of all passes in flight at the worst moment, and of one layer run again."""
    by_chunk = [sum((_layer_bytes(job, i, loads) for i in job.layers(stage)), np.zeros(1)) for stage in job.held(rank)]
    now = most = np.zeros(1)
    for step in job.schedule.orders[rank]:
        now = now + sum((by_chunk[task.chunk] for task in step if task.phase == FORWARD), np.zeros(1))
        most = np.maximum(most, now)
        now = now - sum((by_chunk[task.chunk] for task in step if task.phase in (BACKWARD, WEIGHT)), np.zeros(1))
    again = np.zeros(1)
    if LAYER in job.recompute:
        whole = replace(job, recompute=frozenset())
        layers = [index for stage in job.held(rank) for index in job.layers(stage)]
        again = np.max([_layer_bytes(whole, index, loads).max() for index in layers], initial=0.0)
    return float(np.max(most + again))


def _layer_bytes(job: Job, index: int, loads: _Loads) -> np.ndarray:
    """[ep ranks or 1] bytes that one microbatch leaves in a layer."""
    layer, drop = job.layer(index), job.recompute
    inputs = job.owned_tokens * job.model.hidden
    if LAYER in drop:
        return np.array([inputs * BF16.bytes])
    total = _attention_bytes(job, layer.attention) if layer.attention else 0.0
    operand = job.formats.activations.bytes
    kept = 2 * inputs * (BF16.bytes + operand * ("norm" not in drop))  # of both halves: residual, output of the norm
    tp = job.parallelism.tp
    if layer.dense_ffn and "dense_ffn" not in drop:
        total += _ffn_bytes(job, job.tokens, layer.dense_ffn // tp, layer.dense_gated, operand)
    if layer.experts is None:
        return np.array([total + kept])
    shared = layer.experts.shared_ffn
    if shared and "shared_expert" not in drop:
        total += _ffn_bytes(job, job.tokens, shared // tp, layer.experts.gated, operand)
    total += job.owned_tokens * layer.experts.routed * FP32
    pairs = loads.pairs[min(job.moe_row(index), len(loads.pairs) - 1)] * ("experts" not in drop)
    return total + kept + _expert_bytes(job, layer, pairs)


def _attention_bytes(job: Job, attention: Attention) -> float:
    """Latents, queries, keys and values, and the output, from which its cast for the next product is made again."""
    heads, operand = attention.heads // job.parallelism.tp, job.formats.activations.bytes
    if attention.kind == "mla":
        up = heads * (2 * (attention.qk_nope_head_dim + attention.qk_rope_head_dim) + attention.v_head_dim)
        latents = (attention.q_lora_rank + attention.kv_lora_rank + attention.qk_rope_head_dim) * (BF16.bytes + operand)
        output = heads * attention.v_head_dim
    else:
        kv_heads = max(1, attention.kv_heads // job.parallelism.tp)
        value = attention.v_head_dim or attention.head_dim
        up, latents, output = heads * attention.head_dim + kv_heads * (attention.head_dim + value), 0.0, heads * value
    up *= BF16.bytes * not_in("mla_up", job) if attention.kind == "mla" else BF16.bytes
    return job.tokens * (latents + up + output * BF16.bytes * not_in("attention", job))


def _ffn_bytes(job: Job, tokens: object, ffn: int, gated: bool, operand: float) -> object:
    """Inputs of the activation and its output, or the inputs alone where the output is computed again; these may then
    be kept in the narrow format (DeepSeek-V3 report, section 3.3.3)."""
    if "activation" in job.recompute:
        return tokens * ffn * (1 + gated) * min(BF16.bytes, operand)
    return tokens * ffn * ((1 + gated) * BF16.bytes + operand)


def _expert_bytes(job: Job, layer: Layer, pairs: np.ndarray) -> np.ndarray:
    """Permuted tokens and inner activations. Gates are applied to the latter (Megatron-Core), so that their gradients
    need no outputs."""
    experts, operand = layer.experts, job.formats.expert_activations.bytes
    inner = _ffn_bytes(job, pairs, experts.ffn // job.parallelism.expert_tp, experts.gated, operand)
    return pairs * job.model.expert_hidden * operand + inner


def not_in(module: str, job: Job) -> bool:
    """Whether what a module makes is kept."""
    return module not in job.recompute
