"""One inference step as a program: attention, router, dispatch, experts, shared expert, combine; layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.cost.exchange import KERNELS
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.experts import routed_experts
from moesim.engine.program import Program
from moesim.model.architecture import Layer, require_shapes
from moesim.network.transfer import Transfer
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

    program: of all ranks. traffic: [instance][moe_layer]. work: costs of every kind with their intervals, summed over
    the layers, each operation as long as its slowest rank.
    """

    program: Program
    traffic: tuple[tuple[LayerTraffic, ...], ...]
    work: dict[str, Work]

    @property
    def most_received(self) -> int:
        """Most tokens that dispatch brings to one rank in one layer, its own included."""
        return max((int(layer.entering.max()) for part in self.traffic for layer in part), default=0)


def inference_step(deployment: Deployment, batch: Batch, routes: Routes | None, overlap: Callable) -> Step:
    """Build the program of one step on all ranks.

    routes: experts chosen by the step's tokens, in the order of the instances and their attention-DP ranks; None for a
    dense model. overlap: one of `moesim.workload.overlap.OVERLAPS`.
    """
    return inference_steps(deployment, batch, [routes], [overlap])[0]


def inference_steps(
    deployment: Deployment, batch: Batch, routes: Sequence[Routes | None], overlaps: Sequence[Callable]
) -> list[Step]:
    """The programs of several steps of one batch, each with its own routes and overlap; alike kernels are priced once.

    Every step carries the work of all of them.
    """
    require_shapes(deployment.model)
    pricing = _Pricing(deployment, batch)
    builder = _Builder(pricing, Exchange(deployment, batch, lambda work: pricing.count(work, spread=False)))
    tokens = int(batch.tokens.sum())
    steps = []
    for chosen, overlap in zip(routes, overlaps, strict=True):
        traffic = tuple(
            builder.traffic(chosen, slice(instance * tokens, (instance + 1) * tokens))
            for instance in range(deployment.instances)
        )
        steps.append(Step(builder.program(traffic, overlap), traffic, pricing.total))
    return steps


class _Pricing:
    """Prices work once for each kind of layer and keeps the sums: most layers of a model are alike."""

    def __init__(self, deployment: Deployment, batch: Batch):
        self.deployment = deployment
        self.batch = batch
        self.total: dict[str, Work] = {}
        # Work depends on the number of sequences only: price each number once, then spread to the ranks.
        self.sequences, dp_index = np.unique(batch.sequences, return_inverse=True)
        self._of_rank = np.tile(dp_index[deployment.parallelism.dp_index], deployment.instances)
        self._priced: dict[tuple, list[Work]] = {}

    @property
    def tokens(self) -> np.ndarray:
        """New tokens of each number of sequences."""
        return self.sequences * self.batch.new_tokens

    def price(self, function: Callable[..., list[Work]], layer: Layer, *arguments: object) -> list[Work]:
        """What the function says of a layer, asked once for equal layers."""
        key = (function, layer)
        if key not in self._priced:
            self._priced[key] = function(self.deployment, layer, *arguments)
        return self._priced[key]

    def count(self, work: Work, spread: bool = True) -> np.ndarray:
        """Seconds [ranks] of a work, after adding its slowest rank to the totals of its kind.

        spread: the work is [sequence counts] and goes to the ranks that have them; else it is [ranks] already.
        """
        slowest = Work(work.kind, *(part.max(initial=0.0) for part in (work.seconds, work.low, work.high)))
        so_far = self.total.get(work.kind, Work(work.kind, 0.0, 0.0, 0.0))
        self.total[work.kind] = Work(
            work.kind, so_far.seconds + slowest.seconds, so_far.low + slowest.low, so_far.high + slowest.high
        )
        return work.seconds[self._of_rank] if spread else work.seconds


@dataclass(slots=True, eq=False)
class _Builder:
    """Counts what a step routes, and writes its program."""

    pricing: _Pricing
    exchange: Exchange

    def traffic(self, routes: Routes | None, tokens: slice) -> tuple[LayerTraffic, ...]:
        """Count tokens per slot and copies per pair of ranks, layer by layer, for some of a step's tokens."""
        if routes is None:
            return ()
        deployment = self.pricing.deployment
        count = [None] * len(routes.ids) if routes.count is None else routes.count[:, tokens]
        # Where attention is not data-parallel every rank holds all tokens: nothing is sent, only slots are counted.
        alone = deployment.parallelism.attention_dp == 1
        source = self.exchange.token_sources() * (not alone)
        level = "expert" if alone else KERNELS[deployment.kernel].level
        node = deployment.cluster.node[: deployment.parallelism.devices]
        return tuple(
            layer_traffic(deployment.placement, layer, chosen, source, level=level, node=node, count=count[layer])
            for layer, chosen in enumerate(routes.ids[:, tokens])
        )

    def program(self, traffic: tuple[tuple[LayerTraffic, ...], ...], overlap: Callable) -> Program:
        """All layers and the head. Instances run the same program; their collectives are groups of one collective."""
        emit = Emitter(np.arange(self.pricing.deployment.cluster.ranks))
        layers = list(zip(*traffic, strict=True))  # [moe_layer][instance]
        experts = self.expert_work(layers)
        after: tuple[int, ...] = ()
        moe_layer = 0
        for index, layer in enumerate(self.pricing.deployment.model.layers):
            after = self.attention(emit, index, layer, after)
            after = self.dense_ffn(emit, index, layer, after)
            if layer.experts is not None:
                block = self.moe_block(index, layer, layers[moe_layer], experts[moe_layer])
                after = self.exchange.after_moe(emit, index, overlap(emit, block, after))
                moe_layer += 1
        head = local.head_work(self.pricing.deployment, self.pricing.sequences)
        emit.compute("head", -1, self.pricing.count(head), after)
        return emit.program()

    def expert_work(self, layers: Sequence[Sequence[LayerTraffic]]) -> list[Work]:
        """Routed experts of every MoE layer, each [ranks]; layers with equal experts are priced in one call."""
        deployment = self.pricing.deployment
        policy = deployment.precision
        kinds = [layer.experts for layer in deployment.model.layers if layer.experts is not None]
        result: list[Work | None] = [None] * len(kinds)
        for experts in dict.fromkeys(kinds):
            rows = [row for row, kind in enumerate(kinds) if kind == experts]
            here = deployment.parallelism.ep_index
            cost = routed_experts(
                deployment.machine,
                np.stack([np.concatenate([part.tokens[here] for part in layers[row]]) for row in rows]),
                **self._entering(
                    np.stack([np.concatenate([part.entering[here] for part in layers[row]]) for row in rows]),
                    experts.top_k,
                ),
                hidden=deployment.model.hidden,
                ffn=experts.ffn // deployment.parallelism.expert_tp,
                gated=experts.gated,
                weights=policy.experts,
                activations=policy.expert_activations,
            )
            for position, row in enumerate(rows):
                result[row] = Work("experts", *(part[position] for part in (cost.seconds, cost.low, cost.high)))
        return result

    def _entering(self, arrived: np.ndarray, top_k: int) -> dict[str, object]:
        """What the experts' kernel sees before it spreads tokens. arrived: [layer, rank] tokens sent to it."""
        deployment = self.pricing.deployment
        if deployment.parallelism.attention_dp == 1:
            return {"entering": np.full(arrived.shape, self.pricing.batch.tokens.sum()), "top_k": top_k}
        if KERNELS[deployment.kernel].level == "expert":  # every pair arrives as a token of its own
            return {}
        return {"entering": arrived, "top_k": top_k}

    def attention(self, emit: Emitter, index: int, layer: Layer, after: tuple[int, ...]) -> tuple[int, ...]:
        """Attention of a layer, and the sum of its partial outputs over tensor-parallel ranks."""
        for work in self.pricing.price(local.attention_work, layer, self.pricing.batch, self.pricing.sequences):
            after = (emit.compute(work.kind, index, self.pricing.count(work), after),)
        return self.exchange.after_attention(emit, index, layer, after)

    def dense_ffn(self, emit: Emitter, index: int, layer: Layer, after: tuple[int, ...]) -> tuple[int, ...]:
        """Dense feed-forward part, where the layer has one."""
        works = self.pricing.price(local.dense_ffn_work, layer, self.pricing.tokens)
        for work in works:
            after = (emit.compute(work.kind, index, self.pricing.count(work), after),)
        return self.exchange.all_reduce(emit, index, after) if works else after

    def moe_block(self, index: int, layer: Layer, traffic: Sequence[LayerTraffic], experts: Work) -> MoEBlock:
        """The parts of a MoE layer, priced: what an overlap function puts in order."""
        tokens = self.exchange.tokens_per_rank(self.pricing.tokens)
        deployment = self.pricing.deployment
        shared_tp = deployment.parallelism.shared_expert_tp
        router = self.pricing.price(local.router_work, layer, tokens)[0]
        shared = self.pricing.price(local.shared_expert_work, layer, tokens, shared_tp)
        sent, returned = self.exchange.dispatch_and_combine(
            np.stack([part.copies for part in traffic]), layer.experts.routed
        )
        return MoEBlock(
            layer=index,
            router=self.pricing.count(router),
            shared=self.pricing.count(shared[0]) if shared else None,
            experts=self.pricing.count(experts, spread=False),
            dispatch=self._exchanged("dispatch", sent),
            combine=self._exchanged("combine", returned),
            dispatch_share=sent.compute_share(deployment.machine) if sent else 0.0,
            combine_share=returned.compute_share(deployment.machine) if returned else 0.0,
        )

    def _exchanged(self, kind: str, priced: PricedExchange | None) -> Transfer | None:
        """The transfer of a priced dispatch or combine, after adding its slowest rank to the totals of its kind."""
        if priced is None:
            return None
        seconds = priced.transfer.alone_s
        low, high = priced.interval
        self.pricing.count(Work(kind, seconds, seconds * low, seconds * high), spread=False)
        return priced.transfer
