"""One pipeline rank's chains: its layers forward, and backward for inputs, weights or both.

With sequence parallelism (Korthikanti et al. 2022) a tensor-parallel part begins with an all-gather and ends with a
reduce-scatter; backward the two change places, and the gathered input is gathered once more for its weights' gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.cost.launch import EAGER_CALL_S
from moesim.workload.training import parts
from moesim.workload.training.chains import Chain, Part
from moesim.workload.training.exchanges import Exchanges
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import Passes, Span, launched
from moesim.workload.training.recomputation import LAYER
from moesim.workload.training.routed import ExpertCosts
from moesim.workload.training.schedules import BACKWARD, FORWARD, INPUT, WEIGHT
from moesim.workload.training.sharding import Sharding

# Dropless routing without graphs: the host reads how many tokens each expert got before it can launch what depends on
# it, so that the device waits for one copy of 6 µs (cudaMemcpyAsync takes 5-7 µs: Wu et al. 2026, DualPath, arXiv
# 2602.21548, section 5.2) and the next launch.
ROUTING_SYNC_S = 6e-6 + EAGER_CALL_S
ROUTING_SYNC = Span(ROUTING_SYNC_S, ROUTING_SYNC_S, ROUTING_SYNC_S)
CONTEXT = "context"  # label of keys and values under way


@dataclass(slots=True, eq=False)
class Layers:
    """Builds the chains of one pipeline rank. spans: seconds with their interval by kind of operation. priced: parts of
    layers that were priced before, on any pipeline rank: they are alike."""

    job: Job
    rank: int
    exchanges: Exchanges
    experts: ExpertCosts | None
    sharding: Sharding
    spans: dict[str, Span]
    priced: dict[tuple, object] = field(default_factory=dict)
    _chains: dict[tuple, list[Part]] = field(default_factory=dict)

    def chain(self, phase: str, virtual_stage: int, variant: int, first: bool, last: bool) -> list[Part]:
        """Parts of one pass. variant: draw of routing. first, last: whether the rank's first forward or last weight
        gradients of this stage, where weights are gathered and gradients reduced."""
        key = (phase, virtual_stage, variant, first, last)
        if key not in self._chains:
            build = {FORWARD: self._forward, BACKWARD: self._backward, INPUT: self._backward, WEIGHT: self._weights}
            chain = Chain(self.job.parallelism.stage_devices)
            build[phase](chain, phase, virtual_stage, variant, first, last)
            self._chains[key] = chain.parts
        return self._chains[key]

    def _forward(self, chain: Chain, phase: str, stage: int, variant: int, first: bool, last: bool) -> None:
        layers = list(self.job.layers(stage))
        if stage == 0:
            self._compute(chain, "embedding", -1, self._price(parts.embedding).forward)
        for position, index in enumerate(layers):
            ready = self.sharding.before_forward(chain, layers, position, first)
            self._forward_layer(chain, index, variant, ready)
        if stage == len(self.job.stages) - 1:
            self._compute(chain, "head", -1, self._price(parts.head).forward)

    def _forward_layer(self, chain: Chain, index: int, variant: int, ready: tuple[str, ...] = ()) -> None:
        job, layer, tensor = self.job, self.job.layer(index), self._tensor
        if index >= len(job.model.layers):
            self._compute(chain, "mtp", index, self._price(parts.mtp_projection).forward)
        attention = self._price(parts.attention, layer)
        if attention is not None:
            tensor(chain, index, "all_gather")
            ring = self.exchanges.keys_and_values(layer.attention, 1)
            after = attention.kernel.forward + attention.output.forward
            if ring is None:
                self._compute(chain, "attention", index, attention.before.forward + after, *ready)
            else:
                self._compute(chain, "attention", index, attention.before.forward, *ready)
                chain.communicate("context", index, ring, self.exchanges.library_share, aside=True, label=CONTEXT)
                self._compute(chain, "attention", index, after)
                chain.join("context", index, CONTEXT)
            tensor(chain, index, "reduce_scatter")
        dense = self._price(parts.dense_ffn, layer)
        if dense is not None:
            tensor(chain, index, "all_gather")
            self._compute(chain, "dense_ffn", index, dense.forward)
            tensor(chain, index, "reduce_scatter")
        if layer.experts is not None:
            self._forward_experts(chain, index, variant)

    def _forward_experts(self, chain: Chain, index: int, variant: int) -> None:
        job, layer, row = self.job, self.job.layer(index), self.job.moe_row(index)
        shared = self._price(parts.shared_expert, layer)
        if shared is not None and not job.overlap.shared_expert:
            self._shared(chain, index, "shared_expert", shared.forward)
        self._compute(chain, "router", index, self._price(parts.router, layer).forward)
        if job.graphs is not True and job.capacity is None:  # buffers of a stated capacity need no look at the counts
            self._compute(chain, "routing_sync", index, ROUTING_SYNC)
        costs = self.experts.of(job, row, variant)
        beside = shared is not None and job.overlap.shared_expert
        self._exchange(chain, "dispatch", "dispatch", index, variant, aside=beside)
        if beside:
            self._shared(chain, index, "shared_expert", shared.forward)
        self._slices(chain, "all_gather", index, variant)
        self._compute(chain, "experts", index, costs.forward, "dispatch")
        self._slices(chain, "reduce_scatter", index, variant)
        self._exchange(chain, "combine", "combine", index, variant)

    def _backward(self, chain: Chain, phase: str, stage: int, variant: int, first: bool, last: bool) -> None:
        weights = phase == BACKWARD
        layers = list(self.job.layers(stage))[::-1]
        if stage == len(self.job.stages) - 1:
            self._both(chain, "head", -1, self._price(parts.head), weights)
        for position, index in enumerate(layers):
            ready = self.sharding.before_backward(chain, layers, position)
            self._backward_layer(chain, index, variant, weights, ready)
            if weights:
                self.sharding.after_weights(chain, index, last)
        if stage == 0:
            self._both(chain, "embedding", -1, self._price(parts.embedding), weights)
        if weights:
            self.sharding.after_ends(chain, stage, last)

    def _backward_layer(self, chain: Chain, index: int, variant: int, weights: bool, ready: tuple[str, ...]) -> None:
        job, layer = self.job, self.job.layer(index)
        if ready:
            chain.join("parameters", index, *ready)
        if LAYER in job.recompute:
            mark = len(chain.parts)
            self._forward_layer(chain, index, variant)
            chain.parts[mark:] = [_recomputed(part) for part in chain.parts[mark:]]
        if layer.experts is not None:
            self._backward_experts(chain, index, variant, weights)
        dense = self._price(parts.dense_ffn, layer)
        if dense is not None:
            self._again(chain, index, "dense_ffn", dense.forward)
            self._again(chain, index, "norm", self._price(parts.norm).forward)
            self._again(chain, index, "activation", self._activation(layer.dense_ffn, layer.dense_gated))
            self._tensor(chain, index, "all_gather")
            self._both(chain, "dense_ffn", index, dense, weights, reduced=True)
        attention = self._price(parts.attention, layer)
        if attention is not None:
            self._again(chain, index, "norm", attention.norm.forward)
            self._again(chain, index, "mla_up", attention.mla_up.forward)
            self._again(chain, index, "attention", attention.kernel.forward)
            self._tensor(chain, index, "all_gather")
            ring = self.exchanges.keys_and_values(layer.attention, 2)
            chain.communicate("context", index, ring, self.exchanges.library_share, aside=True, label=CONTEXT)
            whole = attention.before + attention.kernel + attention.output
            self._both(chain, "attention", index, whole, weights, reduced=True)
            if ring is not None:
                chain.join("context", index, CONTEXT)
        if index >= len(job.model.layers):
            self._both(chain, "mtp", index, self._price(parts.mtp_projection), weights)

    def _backward_experts(self, chain: Chain, index: int, variant: int, weights: bool) -> None:
        job, layer, row = self.job, self.job.layer(index), self.job.moe_row(index)
        costs = self.experts.of(job, row, variant)
        shared = self._price(parts.shared_expert, layer)
        if "experts" in job.recompute:
            mark = len(chain.parts)
            self._forward_experts(chain, index, variant)
            chain.parts[mark:] = [_recomputed(part) for part in chain.parts[mark:]]
        else:
            self._again(chain, index, "norm", self._price(parts.norm).forward)
            if shared is not None:
                self._again(chain, index, "shared_expert", shared.forward)
                self._again(chain, index, "activation", self._activation(layer.experts.shared_ffn, layer.experts.gated))
        beside = shared is not None and job.overlap.shared_expert
        self._exchange(chain, "dispatch", "gradient_dispatch", index, variant, aside=beside)
        if shared is not None:
            self._tensor(chain, index, "all_gather")
            self._both(chain, "shared_expert", index, shared, weights, reduced=True)
        self._slices(chain, "all_gather", index, variant)
        self._again(chain, index, "activation", self.experts.of(job, row, variant, activation=True).forward)
        self._compute(chain, "experts_backward", index, costs.input, "gradient_dispatch")
        self._slices(chain, "reduce_scatter", index, variant)
        self._exchange(chain, "combine", "gradient_combine", index, variant, aside=True)
        if weights:
            self._compute(chain, "experts_weights", index, costs.weight)
        router = self._price(parts.router, layer)
        self._compute(chain, "router_backward", index, router.input, "gradient_combine")
        if weights:
            self._compute(chain, "router_weights", index, router.weight)

    def _weights(self, chain: Chain, phase: str, stage: int, variant: int, first: bool, last: bool) -> None:
        """The weight gradients that `input` passes left, all of a layer in one operation."""
        if stage == len(self.job.stages) - 1:
            self._compute(chain, "head_weights", -1, self._price(parts.head).weight)
        for index in list(self.job.layers(stage))[::-1]:
            layer = self.job.layer(index)
            total = Span()
            for function in (parts.attention, parts.dense_ffn, parts.shared_expert):
                found = self._price(function, layer)
                if isinstance(found, parts.AttentionParts):
                    found = found.before + found.kernel + found.output
                total = total + (found.weight if found is not None else Span())
            if index >= len(self.job.model.layers):
                total = total + self._price(parts.mtp_projection).weight
            if layer.experts is not None:
                total = total + self._price(parts.router, layer).weight
                costs = self.experts.of(self.job, self.job.moe_row(index), variant)
                self._compute(chain, "experts_weights", index, costs.weight)
            self._compute(chain, "dense_weights", index, total)
            self.sharding.after_weights(chain, index, last)
        self.sharding.after_ends(chain, stage, last)

    def _both(self, chain: Chain, kind: str, layer: int, passes: Passes, weights: bool, reduced: bool = False) -> None:
        """Input gradients and weight gradients. reduced: tensor-parallel ranks add up the former beside the latter, for
        which they gather the forward's input again."""
        if reduced and weights:
            self._tensor(chain, layer, "all_gather", aside=True)
        self._compute(chain, f"{kind}_backward", layer, passes.input)
        if reduced:
            self._tensor(chain, layer, "reduce_scatter", aside=weights)
        if weights:
            self._compute(chain, f"{kind}_weights", layer, passes.weight)
            if reduced and self.exchanges.tensor("all_reduce") is not None:
                chain.join("reduce_scatter", layer, "reduce_scatter", "all_reduce")

    def _shared(self, chain: Chain, index: int, kind: str, cost: Span) -> None:
        self._tensor(chain, index, "all_gather")
        self._compute(chain, kind, index, cost)
        self._tensor(chain, index, "reduce_scatter")

    def _again(self, chain: Chain, index: int, module: str, cost: Span) -> None:
        if module in self.job.recompute:
            self._compute(chain, "recomputed", index, cost)

    def _activation(self, ffn: int, gated: bool) -> Span:
        return parts.activation(self.job, self.job.tokens, ffn // self.job.parallelism.tp, gated).forward

    def _tensor(self, chain: Chain, index: int, kind: str, aside: bool = False) -> None:
        """A tensor-parallel collective. Without sequence parallelism one all-reduce takes the place of each pair."""
        if not self.job.sequence_parallel:
            if kind == "all_gather":
                return
            kind = "all_reduce"
        transfer, share = self.exchanges.tensor(kind), self.exchanges.library_share if aside else 0.0
        stream = "tensor" if aside else "communication"
        chain.communicate(kind, index, transfer, share, aside=aside, label=kind if aside else "", stream=stream)

    def _exchange(self, chain: Chain, phase: str, kind: str, index: int, variant: int, aside: bool = False) -> None:
        transfer, share = self.exchanges.routed(phase, self.job.moe_row(index), variant)
        chain.communicate(kind, index, transfer, share, aside=aside, label=kind if aside else "")

    def _slices(self, chain: Chain, kind: str, index: int, variant: int) -> None:
        transfer = self.exchanges.expert_slices(kind, self.job.moe_row(index), variant)
        chain.communicate(f"expert_{kind}", index, transfer)

    def _compute(self, chain: Chain, kind: str, layer: int, cost: Span, *waits: str) -> None:
        chain.compute(kind, layer, launched(self.job, cost, self.job.captured(kind)), *waits)
        if np.max(cost.seconds) > 0:
            mean = cost.each(lambda part: float(np.mean(part)))
            self.spans[kind] = self.spans.get(kind, Span()) + mean

    def _price(self, function: Callable, *arguments: object) -> object:
        """A part's cost, asked once for equal layers."""
        key = (function, *arguments)
        if key not in self.priced:
            self.priced[key] = function(self.job, *arguments)
        return self.priced[key]


def _recomputed(part: Part) -> Part:
    """A part of the forward pass run again: local work counts as recomputation."""
    if part.transfer is not None:
        return part
    return replace(part, kind="recomputed_experts" if part.kind == "experts" else "recomputed")
