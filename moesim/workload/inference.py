"""One inference step as a program: attention, router, dispatch, experts, shared expert, combine; layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.cost.experts import routed_experts
from moesim.engine.program import Program
from moesim.model.architecture import Layer, require_shapes
from moesim.placement.traffic import LayerTraffic, layer_traffic
from moesim.routing.replay import Routes
from moesim.workload import local
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.exchange import Exchange
from moesim.workload.local import Work
from moesim.workload.overlap import MoEBlock


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step ready to simulate.

    traffic: one entry a MoE layer. work: costs of every kind with their intervals, summed over the layers, each
    operation as long as its slowest rank.
    """

    program: Program
    traffic: tuple[LayerTraffic, ...]
    work: dict[str, Work]

    @property
    def most_received(self) -> int:
        """Most token copies that one rank's experts compute in one layer."""
        return max((int(layer.tokens.sum(axis=1).max()) for layer in self.traffic), default=0)


def inference_step(deployment: Deployment, batch: Batch, routes: Routes | None, overlap: Callable) -> Step:
    """Build the program of one step on all ranks.

    routes: experts chosen by the step's tokens, in the order of the attention-DP ranks; None for a dense model.
    overlap: one of `moesim.workload.overlap.OVERLAPS`.
    """
    require_shapes(deployment.model)
    builder = _Builder(deployment, batch)
    traffic = builder.traffic(routes) if routes is not None else ()
    experts = builder.expert_work(traffic)
    emit = Emitter(np.arange(deployment.cluster.ranks))
    after: tuple[int, ...] = ()
    moe_layer = 0
    for index, layer in enumerate(deployment.model.layers):
        after = builder.attention(emit, index, layer, after)
        after = builder.dense_ffn(emit, index, layer, after)
        if layer.experts is not None:
            block = builder.moe_block(index, layer, traffic[moe_layer], experts[moe_layer])
            after = overlap(emit, block, after)
            after = builder.after_moe(emit, index, after)
            moe_layer += 1
    builder.head(emit, after)
    return Step(emit.program(), traffic, builder.total)


class _Builder:
    """Prices the parts of a step and keeps what has been priced: most layers of a model are alike."""

    def __init__(self, deployment: Deployment, batch: Batch):
        self.deployment = deployment
        self.batch = batch
        self.exchange = Exchange(deployment, batch)
        self.total: dict[str, Work] = {}
        # Work depends on the number of sequences only: price each number once, then spread to the ranks.
        self._sequences, dp_index = np.unique(batch.sequences, return_inverse=True)
        self._of_rank = dp_index[deployment.parallelism.dp_index]
        self._priced: dict[tuple, list[Work]] = {}

    def traffic(self, routes: Routes) -> tuple[LayerTraffic, ...]:
        """Count tokens per slot and copies per pair of ranks, layer by layer."""
        deployment, parallelism = self.deployment, self.deployment.parallelism
        # Where attention is not data-parallel every rank holds all tokens: nothing is sent, only slots are counted.
        alone = parallelism.attention_dp == 1
        source = np.zeros(routes.ids.shape[1], dtype=np.int64) if alone else self.exchange.token_sources()
        level = "expert" if alone else deployment.kernel.level
        return tuple(
            layer_traffic(deployment.placement, layer, ids, source, level=level, node=deployment.cluster.node)
            for layer, ids in enumerate(routes.ids)
        )

    def expert_work(self, traffic: tuple[LayerTraffic, ...]) -> list[Work]:
        """Routed experts of every MoE layer, each [ranks]; layers with equal experts are priced in one call."""
        deployment, policy = self.deployment, self.deployment.precision
        kinds = [layer.experts for layer in deployment.model.layers if layer.experts is not None]
        result: list[Work | None] = [None] * len(kinds)
        for experts in dict.fromkeys(kinds):
            rows = [row for row, kind in enumerate(kinds) if kind == experts]
            cost = routed_experts(
                deployment.machine,
                np.stack([traffic[row].tokens[deployment.parallelism.ep_index] for row in rows]),
                hidden=deployment.model.hidden,
                ffn=experts.ffn // deployment.parallelism.expert_tp,
                gated=experts.gated,
                weights=policy.experts,
                activations=policy.expert_activations,
            )
            for position, row in enumerate(rows):
                result[row] = Work("experts", *(part[position] for part in (cost.seconds, cost.low, cost.high)))
        return result

    def attention(self, emit: Emitter, index: int, layer: Layer, after: tuple[int, ...]) -> tuple[int, ...]:
        """Attention of a layer, and the sum of its partial outputs over tensor-parallel ranks."""
        for work in self._price(local.attention_work, layer, self.batch, self._sequences):
            after = (emit.compute(work.kind, index, self._count(work), after),)
        return self.exchange.after_attention(emit, index, layer, after)

    def dense_ffn(self, emit: Emitter, index: int, layer: Layer, after: tuple[int, ...]) -> tuple[int, ...]:
        """Dense feed-forward part, where the layer has one."""
        works = self._price(local.dense_ffn_work, layer, self._sequences * self.batch.new_tokens)
        for work in works:
            after = (emit.compute(work.kind, index, self._count(work), after),)
        return self.exchange.all_reduce(emit, index, after) if works else after

    def moe_block(self, index: int, layer: Layer, traffic: LayerTraffic, experts: Work) -> MoEBlock:
        """The parts of a MoE layer, priced: what an overlap function puts in order."""
        tokens = self.exchange.tokens_per_rank(self._sequences * self.batch.new_tokens)
        shared_tp = self.deployment.parallelism.shared_expert_tp
        router = self._price(local.router_work, layer, tokens)[0]
        shared = self._price(local.shared_expert_work, layer, tokens, shared_tp)
        dispatch, combine = self.exchange.dispatch_and_combine(traffic.copies)
        return MoEBlock(
            layer=index,
            router=self._count(router),
            shared=self._count(shared[0]) if shared else None,
            experts=self._count(experts, spread=False),
            dispatch=dispatch,
            combine=combine,
            compute_share=self.deployment.compute_share,
        )

    def after_moe(self, emit: Emitter, index: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """Bring the block's output to every rank that needs it."""
        return self.exchange.after_moe(emit, index, after)

    def head(self, emit: Emitter, after: tuple[int, ...]) -> None:
        """Final norm, vocabulary and sampling of each sequence's last token."""
        emit.compute("head", -1, self._count(local.head_work(self.deployment, self._sequences)), after)

    def _price(self, function: Callable[..., list[Work]], layer: Layer, *arguments: object) -> list[Work]:
        key = (function, layer)
        if key not in self._priced:
            self._priced[key] = function(self.deployment, layer, *arguments)
        return self._priced[key]

    def _count(self, work: Work, spread: bool = True) -> np.ndarray:
        """Seconds [ranks] of a work, after adding its slowest rank to the totals of its kind."""
        slowest = Work(work.kind, *(part.max(initial=0.0) for part in (work.seconds, work.low, work.high)))
        so_far = self.total.get(work.kind, Work(work.kind, 0.0, 0.0, 0.0))
        self.total[work.kind] = Work(
            work.kind, so_far.seconds + slowest.seconds, so_far.low + slowest.low, so_far.high + slowest.high
        )
        return work.seconds[self._of_rank] if spread else work.seconds
