"""What no server can beat: bounds from bytes and FLOPs, which drop candidates before anything is simulated.

Everything here errs on the fast side: kernels reach the datasheet's rates, the experts that a batch touches are spread
evenly over the ranks, attention reads the KV cache and nothing else, the network is free, and the stack adds its cost
of a step and of its smallest kernels alone. What is too slow or too dear even so is too slow or too dear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.model import shapes
from moesim.model.architecture import MoEModel
from moesim.model.per_token import cached_elements, matrix_flops
from moesim.serving.loads import drawn_loads
from moesim.serving.policy import PRESETS
from moesim.serving.stack import Constants
from moesim.spec.step.scenario import Precision
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.candidates import Candidate, Layout, precision_of, slots_per_rank

_WEIGHT_ONLY = {"mxfp4", "int4", "int8"}
BATCHES = np.unique(np.rint(2.0 ** np.arange(0, 13.01, 0.5)).astype(int))
_MOST_SKEWED = 1.2  # of log-popularity; real routers have 0.6-0.9, and more skew touches fewer experts
_DENSE_KINDS = ("dense", "attention", "shared_expert", "dense_ffn", "head")


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one server.

    weights: bytes on a device. sequences: [batch] that its caches hold, rising; step_s: [batch] least decode step of
    each. prompt_s: least seconds of a mean prompt.
    """

    weights: float
    sequences: np.ndarray
    step_s: np.ndarray
    prompt_s: float


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a request."""

    input: float
    output: float


def floor_of(
    plan: Plan,
    model: MoEModel,
    hardware: Hardware,
    layout: Layout,
    lengths: Lengths,
    constants: Constants,
    touched: np.ndarray,
) -> Floor | str:
    """The bounds of a layout, or why it cannot serve at all.

    constants: of its stack. touched: see `touched_experts`.
    """
    stated = precision_of(plan, layout)
    device = hardware.device
    try:
        rate = _flops_per_s(hardware, stated) * layout.devices
    except (InvalidInput, KeyError):
        return f"{hardware.name} lacks the arithmetic of a format"
    weights, read, expert = _weights(model, layout, stated)
    policy = PRESETS[plan.search[layout.space].software]
    free = device.hbm_bytes - weights - policy.other_bytes
    room = max(policy.memory_share * device.hbm_bytes - weights - policy.other_bytes, policy.free_share * free)
    context = lengths.input + lengths.output / 2
    elements = sum(cached_elements(layer.attention, layout.tp) for layer in model.layers if not _windowed(layer))
    cached = max(context * elements * PRECISIONS[stated.kv].bytes, 1.0)
    if room <= cached:
        return "weights leave no room for the KV cache of a request"
    sequences = room / cached * layout.attention_dp
    flops = matrix_flops(model)
    # A decode step of B sequences reads the weights that it touches once, and every cache once.
    batch = np.unique(np.rint(np.geomspace(1, max(sequences, 1), 24)).astype(int))
    experts = np.interp(batch, BATCHES, touched) / layout.ep * expert
    bytes_s = (read + experts + batch / layout.attention_dp * cached) / device.hbm_bytes_per_s
    added = constants.fixed + len(model.layers) * constants.kernel
    step = np.maximum(bytes_s, batch * flops / rate) + added
    return Floor(weights, batch, step, lengths.input * flops / rate)


def touched_experts(model: MoEModel) -> np.ndarray:
    """[BATCHES] experts of all MoE layers that so many tokens touch, mean over draws of `moesim.serving.loads`."""
    if not model.moe_layers:
        return np.zeros(BATCHES.size)
    experts = model.layers[model.moe_layers[0]].experts
    loads = drawn_loads(BATCHES, experts.routed, experts.top_k, sigma=_MOST_SKEWED)
    return np.count_nonzero(loads, axis=2).mean(axis=1) * len(model.moe_layers)


def least_servers(plan: Plan, candidate: Candidate, floors: dict[Layout, Floor], lengths: Lengths) -> tuple[int, int]:
    """(servers, prefill servers) below which the load cannot be carried."""
    own = floors[candidate.layout]
    limit = candidate.max_sequences * candidate.layout.attention_dp
    # The longest steps that users may wait for: on average they are no longer than at the percentile.
    allowed = (own.sequences <= limit) & (own.step_s <= plan.slo.tpot)
    tokens_per_s = float((own.sequences / own.step_s)[allowed].max(initial=1 / own.step_s[0]))
    decode = plan.load.rate * lengths.output / tokens_per_s
    prompts = plan.load.rate * (floors[candidate.prefill] if candidate.prefill else own).prompt_s
    if candidate.prefill:
        return max(1, math.ceil(decode)), max(1, math.ceil(prompts))
    return max(1, math.ceil(max(decode, prompts))), 0


def _windowed(layer) -> bool:
    return layer.attention is None or bool(layer.attention.window) or bool(layer.attention.indexer_top_k)


def _flops_per_s(hardware: Hardware, stated: Precision) -> float:
    """The fastest of the peaks that the formats use."""
    pairs = [(stated.experts, stated.expert_activations), *((name, stated.activations) for name in _dense(stated))]
    peaks = []
    for weights, activations in pairs:
        operand = activations or ("bf16" if weights in _WEIGHT_ONLY else weights)
        peaks.append(hardware.device.peak[matmul_peak(PRECISIONS[weights], PRECISIONS[operand])])
    return max(peaks)


def _dense(stated: Precision) -> list[str]:
    """The formats of everything that is no routed expert."""
    return [found for kind in _DENSE_KINDS if (found := getattr(stated, kind, None))]


def _weights(model: MoEModel, layout: Layout, stated: Precision) -> tuple[float, float, float]:
    """(bytes of weights on a device, bytes of them that every decode step reads, bytes of an expert's part there)."""
    hidden, tp = model.hidden, layout.tp
    shared_tp = tp if layout.attention_dp == 1 else 1
    dense = expert = one = 0.0
    for layer in model.layers:
        parts = [
            *shapes.attention_projections(layer, hidden, tp),
            *shapes.dense_ffn(layer, hidden, tp),
            *shapes.shared_expert(layer, hidden, shared_tp),
        ]
        dense += sum(part.weights for part in parts)
        if layer.experts is not None:
            one = sum(p.n * p.k for p in shapes.routed_experts(layer, hidden, layout.expert_tp))
            expert += slots_per_rank(layout, model) * one
    head = sum(part.weights for part in shapes.head(model, tp))
    rest = head if model.tied_embeddings else 2 * head
    narrow, wide = min(PRECISIONS[name].bytes for name in _dense(stated)), PRECISIONS["bf16"].bytes
    experts = PRECISIONS[stated.experts].bytes
    return dense * narrow + rest * wide + expert * experts, dense * narrow + head * wide, one * experts
