"""Seconds of a server's routed experts over the tokens of a step, window by window of the routing.

Experts depend on loads, not on tokens alone: the rank with most pairs multiplies longest, and the one that most experts
have tokens on reads most weights. Loads come from an `ExpertLoads`: windows of a trace, or drawn ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moesim.cost.dtypes import peak
from moesim.cost.experts import routed_experts
from moesim.cost.experts_kernel import weight_bytes
from moesim.model import shapes
from moesim.model.architecture import Layer
from moesim.serving.grids import TOKENS
from moesim.workload.deployment import Deployment

# 4-bit weights with wider activations are unpacked by the SMs: Marlin's experts read at most 2.7 (H100), 3.4 (H200) and
# 2.8 TB/s (B200) of them, whatever the HBM (measured tables, int4_wo and w4a16_mxfp4): 21, 26 and 19 GB/s an SM.
UNPACK_BYTES_PER_S = 23e9  # of one SM
_KERNEL_SAMPLES = 4  # windows, and layers of each: kernels are dear to price and differ little between them


class ExpertLoads(Protocol):
    """What a step's tokens ask of expert slots."""

    def pairs(self, phase: str, deployment: Deployment, rows: tuple[int, ...]) -> np.ndarray:
        """Token-expert pairs [TOKENS, window, row, rank, slot] of the MoE layers of alike experts.

        phase: ``decode``, or ``prefill`` of steps that hold prompts. rows: indices among the model's MoE layers; the
        result may hold fewer, which then stand for all.
        """

    changing: bool
    """Whether windows follow one another as decoding goes on; else every layer of a step has one of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTables:
    """All [window, TOKENS of the server]. bytes_s, flops_s, kernels_s: of all layers together.

    bytes_s, flops_s: what the busiest rank must move and multiply at datasheet rates: weights of the experts that a
    token touches, and 2 FLOPs a weight and pair. kernels_s: what the slowest rank's kernels take by the cost floor, the
    same in every window. hottest: routed tokens of the hottest rank over the mean rank's, mean over layers.
    """

    bytes_s: np.ndarray
    flops_s: np.ndarray
    kernels_s: np.ndarray
    hottest: np.ndarray


def expert_tables(deployment: Deployment, loads: ExpertLoads, phase: str) -> ExpertTables:
    """Tabulate the routed experts of one server. phase: as `ExpertLoads.pairs` takes it."""
    model = deployment.model
    kinds: dict[Layer, tuple[int, ...]] = {}
    for row, index in enumerate(model.moe_layers):
        layer = model.layers[index]
        kinds[layer] = (*kinds.get(layer, ()), row)
    if not kinds:
        nothing = np.zeros((1, TOKENS.size))
        return ExpertTables(nothing, nothing, nothing, nothing + 1)
    parts = []
    for layer, rows in kinds.items():
        found = _of_kind(deployment, layer, loads.pairs(phase, deployment, rows))
        parts.append(len(rows) * (found if loads.changing else found.mean(axis=1, keepdims=True)))
    moved, multiplied, kernels, hottest = sum(parts)
    return ExpertTables(moved, multiplied, kernels, hottest / len(model.moe_layers))


def _of_kind(deployment: Deployment, layer: Layer, pairs: np.ndarray) -> np.ndarray:
    """The four tables [4, window, TOKENS] of one layer, mean over those of pairs [TOKENS, window, row, rank, slot]."""
    policy, device = deployment.precision, deployment.machine.device
    products = shapes.routed_experts(layer, deployment.model.hidden, deployment.parallelism.expert_tp)
    weights = sum(product.n * product.k for product in products)
    touched = np.count_nonzero(pairs, axis=4).max(axis=3).mean(axis=2).T
    by_rank = pairs.sum(axis=4)
    most = by_rank.max(axis=3).mean(axis=2).T
    moved = touched * weights * weight_bytes(policy.experts) / _weight_rate(deployment)
    multiplied = 2 * most * weights / peak(device, policy.experts, policy.expert_activations)
    hottest = most / by_rank.mean(axis=(1, 2, 3))
    kernels = np.broadcast_to(_kernel_seconds(deployment, layer, pairs), most.shape)
    return np.stack([moved, multiplied, kernels, hottest])


def _weight_rate(deployment: Deployment) -> float:
    """Bytes/s at which experts read their weights: HBM's, or what the SMs unpack where that is less."""
    device, policy = deployment.machine.device, deployment.precision
    if policy.experts.bits > 4.6 or policy.expert_activations.bits < 16 or device.kind != "gpu":
        return device.hbm_bytes_per_s
    return min(device.hbm_bytes_per_s, device.cores * UNPACK_BYTES_PER_S)


def _kernel_seconds(deployment: Deployment, layer: Layer, pairs: np.ndarray) -> np.ndarray:
    """[TOKENS] seconds of the slowest rank's expert kernels, mean over some windows and layers of the pairs."""
    degrees, policy, experts = deployment.parallelism, deployment.precision, layer.experts
    layers = pairs.shape[2]
    some = np.linspace(0, layers, min(layers, _KERNEL_SAMPLES), endpoint=False).astype(int)
    pairs = pairs[:, :_KERNEL_SAMPLES, some]
    everywhere = degrees.attention_dp == 1  # every rank sees all tokens, and sorts out its own
    cost = routed_experts(
        deployment.machine,
        pairs,
        hidden=deployment.model.expert_hidden,
        ffn=experts.ffn / degrees.expert_tp,
        gated=experts.gated,
        weights=policy.experts,
        activations=policy.expert_activations,
        entering=np.broadcast_to(TOKENS[:, None, None, None].astype(float), pairs.shape[:4]) if everywhere else None,
        top_k=experts.top_k if everywhere else None,
    )
    return cost.seconds.max(axis=3).mean(axis=(1, 2))
