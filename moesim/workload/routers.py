"""What choosing experts costs: kernels of a router, fused or one by one, and ways around it.

A router is a function in `ROUTERS`; the keys that a scenario sets for it are in `moesim.spec.step.router`. Each prices
the norm in front of the experts too, which all of them need. Which experts are chosen is the trace's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from moesim.cost.estimate import Cost
from moesim.cost.gemm import gemm
from moesim.cost.launch import EAGER_CALL_S
from moesim.cost.machine import Machine
from moesim.cost.memory import memory_bound
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.architecture import Experts

# Gap between two kernels of a replayed graph: 3.4 µs a kernel of 2.9 µs (NVIDIA, "Getting started with CUDA graphs").
GRAPH_GAP_S = 0.5e-6
BF16, FP32 = PRECISIONS["bf16"], PRECISIONS["fp32"]


@dataclass(frozen=True, slots=True, eq=False)
class RouterPolicy:
    """kind: a key of `ROUTERS`; options: its keyword arguments."""

    kind: str = "fused"
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RouterWork:
    """Costs [sequence counts] of one layer's router, kernel by kernel, and how many kernels are launched."""

    costs: tuple[Cost, ...]
    kernels: int


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """What a router works on: machine, width of a token, the experts, tokens [sequence counts] of a rank; formats of
    its product."""

    machine: Machine
    hidden: int
    experts: Experts
    tokens: np.ndarray
    weights: Precision = BF16
    activations: Precision = BF16

    def scores(self, rows: np.ndarray | float, columns: int) -> Cost:
        """The product with the gates of so many experts."""
        return gemm(self.machine, rows, columns, self.hidden, weights=self.weights, activations=self.activations)

    def passes(self, rows: np.ndarray | float, columns: int, kernels: int) -> Cost:
        """Element-wise kernels over FP32 scores [row, column], each reading and writing them, with the gaps of their
        launches."""
        size = 2 * kernels * rows * columns * FP32.bytes
        return _with_launches(self.machine, memory_bound(self.machine, size, kernels=kernels), kernels)

    def norm(self) -> Cost:
        """Fused residual add and RMSNorm."""
        return memory_bound(self.machine, 4 * self.tokens * self.hidden * BF16.bytes)


def fused(gate: Gate) -> RouterWork:
    """The product, then one kernel for scores, choice and weights, as engines run it."""
    choice = memory_bound(gate.machine, gate.tokens * gate.experts.routed * FP32.bytes)
    return RouterWork((gate.norm(), gate.scores(gate.tokens, gate.experts.routed), choice), 3)


def unfused(gate: Gate) -> RouterWork:
    """The product, then a kernel for every operation of the choice, as a plain framework runs it."""
    kernels = choice_kernels(gate.experts)
    passes = gate.passes(gate.tokens, gate.experts.routed, kernels)
    return RouterWork((gate.norm(), gate.scores(gate.tokens, gate.experts.routed), passes), 2 + kernels)


def two_stage(gate: Gate, *, groups: int, kept_groups: int) -> RouterWork:
    """First groups of experts, then experts of the kept groups: fewer scores, one product more."""
    inside = gate.experts.routed // groups
    rows = gate.tokens * kept_groups
    first = (gate.scores(gate.tokens, groups), memory_bound(gate.machine, gate.tokens * groups * FP32.bytes))
    second = (gate.scores(rows, inside), memory_bound(gate.machine, rows * inside * FP32.bytes))
    return RouterWork((gate.norm(), *first, *second), 5)


def frozen(gate: Gate) -> RouterWork:
    """Routes fixed before serving and looked up by token, as in hash layers or StableMoE: no scores at all."""
    looked_up = memory_bound(gate.machine, 2 * gate.tokens * gate.experts.top_k * FP32.bytes)
    return RouterWork((gate.norm(), looked_up), 2)


def route_cache(gate: Gate, *, hit_rate: float) -> RouterWork:
    """Routes of known keys are looked up; the others are computed and kept. hit_rate: measured on the trace."""
    misses = gate.tokens * (1 - hit_rate)
    looked_up = memory_bound(gate.machine, gate.tokens * (8 + 2 * gate.experts.top_k * FP32.bytes))  # a 64-bit key
    if hit_rate == 1:
        return RouterWork((gate.norm(), looked_up), 2)
    choice = memory_bound(gate.machine, misses * gate.experts.routed * FP32.bytes)
    kept = memory_bound(gate.machine, misses * (8 + gate.experts.top_k * FP32.bytes))
    return RouterWork((gate.norm(), looked_up, gate.scores(misses, gate.experts.routed), choice, kept), 5)


ROUTERS: dict[str, Callable[..., RouterWork]] = {
    "fused": fused,
    "unfused": unfused,
    "two_stage": two_stage,
    "frozen": frozen,
    "route_cache": route_cache,
}


def choice_kernels(experts: Experts) -> int:
    """Kernels between scores and weights when nothing is fused.

    Scores (softmax or sigmoid) and top-k: 2. A correction bias adds itself, and the chosen scores are gathered without
    it: 2. Groups: the two best of each, their sum, the best groups, a mask, its use: 5. Normalising: a sum and a
    division. Scaling: one. Operations as in DeepSeek-V3's inference/model.py.
    """
    return (
        2
        + 2 * experts.correction_bias
        + 5 * (experts.groups > 1)
        + 2 * (experts.normalise_top_k and experts.top_k > 1)
        + (experts.routed_scaling != 1)
    )


def _with_launches(machine: Machine, cost: Cost, kernels: int) -> Cost:
    """A cost with the gaps between its kernels; without graphs the host's calls are the least time they take."""
    seconds = (cost.seconds, cost.low, cost.high)
    if machine.graphs:
        return Cost(*(np.where(part > 0, part + kernels * GRAPH_GAP_S, 0.0) for part in seconds), cost.limit)
    return Cost(*(np.where(part > 0, np.maximum(part, kernels * EAGER_CALL_S), 0.0) for part in seconds), cost.limit)
