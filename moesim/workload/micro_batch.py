"""One micro-batch of a step: counts what it routes and prices its layers, for all ranks that run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moesim.cost.exchange import KERNELS
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.experts import routed_experts
from moesim.cost.hooks import hooked
from moesim.model.architecture import Experts, Layer
from moesim.placement.traffic import LayerTraffic, layer_traffic
from moesim.routing.replay import Routes
from moesim.workload import local
from moesim.workload.context import spread_attention
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.encoding import cross_attention_work, encoder_end_work
from moesim.workload.exchange import Exchange
from moesim.workload.local import Work
from moesim.workload.parts import Chunk, Exchanged, LayerParts, MoEBlock, Piece
from moesim.workload.pricing import Ledger, Pricing
from moesim.workload.stage import Stage

CUTS = ("experts", "tokens")


class MicroBatch:
    """Some of a step's tokens on one pipeline stage.

    routes: experts chosen by these tokens, in the order of the instances and their attention-DP ranks; None for a dense
    model.
    """

    def __init__(self, deployment: Deployment, stage: Stage, batch: Batch, routes: Routes | None, ledger: Ledger):
        self.deployment, self.stage, self.batch, self.routes = deployment, stage, batch, routes
        self.pricing = Pricing(deployment, stage, batch, ledger)
        self.exchange = Exchange(deployment, stage, batch, self.pricing.count)
        self.traffic: dict[int, list[LayerTraffic]] = {}  # MoE layer -> [instance], chunks added up

    def layers(self, indices: Sequence[int], chunks: int, by: str) -> tuple[LayerParts, ...]:
        """Price layers of the model. chunks, by: how the expert work is cut, see `moesim.workload.overlap.Split`."""
        model = self.deployment.model
        moe_layer = {index: row for row, index in enumerate(model.moe_layers)}
        rows = [moe_layer[index] for index in indices if index in moe_layer]
        cut = {row: self._cut(row, chunks, by) for row in rows}
        work = self._expert_work(cut)
        parts = []
        for index in indices:
            row = moe_layer.get(index)
            block = None if row is None else self._block(index, cut[row], work[row])
            parts.append(self._layer(index, model.layers[index], block))
        return tuple(parts)

    def head(self) -> tuple[Piece, ...]:
        """The head on the last token of every prompt (all of them end on one context-parallel rank), or on a rank's new
        tokens in decode; what follows an encoder's layers."""
        if not self.batch.causal:
            work = encoder_end_work(self.deployment, self.batch, self.pricing.sequences)
            return (Piece("head", self.pricing.on_ranks(work)),)
        tokens = local.head_tokens(self.batch, self.pricing.sequences)
        own = -(-tokens // self.stage.parallelism.cp) if self.batch.phase == "decode" else tokens
        work = local.head_work(self.deployment, own)
        return (*self.exchange.before_head(), Piece("head", self.pricing.on_ranks(work)))

    def _layer(self, index: int, layer: Layer, block: MoEBlock | None) -> LayerParts:
        attention = self._local(local.attention_work, layer, self.batch, self.pricing.sequences)
        prepare = core = ()
        if attention:
            norm, projections, kernel, output = attention
            prepare = (norm, *self.exchange.before_projections(), projections)
            spread = spread_attention(self.deployment, self.stage, self.batch, self.exchange, layer.attention, kernel)
            core = (*spread, output, *self.exchange.after_attention(layer), *self._cross_attention(layer))
        dense = self._local(local.dense_ffn_work, layer, self.pricing.tokens)
        if dense:
            before, behind = self.exchange.around_ffn()
            core += (*before, *dense, *behind)
        after = self.exchange.after_moe() if block is not None else ()
        if block is not None:
            core += self.exchange.before_moe()
        return LayerParts(index, prepare, core, block, after)

    def _cross_attention(self, layer: Layer) -> tuple[Piece, ...]:
        """A decoder's attention to an encoder's output, and the sum of its partial outputs."""
        works = self._local(cross_attention_work, layer, self.batch, self.pricing.sequences)
        if not works:
            return ()
        return (works[0], *self.exchange.before_projections(), *works[1:], *self.exchange.after_attention(layer))

    def _local(self, function, layer: Layer, *arguments: object) -> tuple[Piece, ...]:
        works = self.pricing.price(function, layer, *arguments)
        return tuple(Piece(work.kind, self.pricing.on_ranks(work)) for work in works)

    def _block(self, index: int, chunks: Sequence[Sequence[LayerTraffic]], work: Sequence[Work]) -> MoEBlock:
        """The MoE part. chunks: [chunk][instance] traffic; work: [chunk] of the experts, on ranks."""
        layer = self.deployment.model.layers[index]
        stage = self.stage
        tokens = -(-self.pricing.tokens // stage.parallelism.tp) if stage.sharded else self.pricing.tokens
        router = self._local(local.router_work, layer, tokens)[0]
        shared_tp = stage.parallelism.shared_expert_tp
        shared = self._local(local.shared_expert_work, layer, tokens, shared_tp)
        return MoEBlock(
            layer=index,
            router=router,
            shared=shared[0] if shared else None,
            chunks=tuple(self._chunk(layer, part, each) for part, each in zip(chunks, work, strict=True)),
        )

    def _chunk(self, layer: Layer, traffic: Sequence[LayerTraffic], work: Work) -> Chunk:
        self.pricing.count(work)
        sent, returned = self.exchange.dispatch_and_combine(traffic, layer.experts.routed)
        gather, scatter = self.exchange.around_experts(traffic)
        return Chunk(
            dispatch=self._exchanged("dispatch", sent),
            experts=Piece("experts", work.seconds),
            combine=self._exchanged("combine", returned),
            gather=gather,
            scatter=scatter,
        )

    def _exchanged(self, kind: str, priced: PricedExchange | None) -> Exchanged | None:
        """A priced dispatch or combine, after adding its slowest rank to the totals of its kind."""
        if priced is None:
            return None
        machine, seconds = self.deployment.machine, priced.transfer.alone_s
        low, high = priced.interval
        self.pricing.count(Work(kind, seconds, seconds * low, seconds * high))
        whole = Piece(kind, transfer=priced.transfer, compute_share=priced.compute_share(machine))
        parts = hooked(machine, priced)
        if parts is None:
            return Exchanged(whole)
        return Exchanged(
            whole,
            send=Piece(f"{kind}_send", parts.send_s),
            flight=Piece(kind, transfer=parts.flight, compute_share=parts.compute_share),
            receive=Piece(f"{kind}_receive", parts.receive_s),
        )

    def _cut(self, row: int, chunks: int, by: str) -> list[list[LayerTraffic]]:
        """Traffic [chunk][instance] of a MoE layer."""
        instances = range(self.deployment.instances)
        if chunks == 1:
            cut = [[self._traffic(row, instance) for instance in instances]]
        elif by == "tokens":
            which = self._which_chunk(chunks)
            cut = [[self._traffic(row, i, chosen=np.flatnonzero(which == c)) for i in instances] for c in range(chunks)]
        else:
            slots = np.array_split(np.arange(self.deployment.placement.slots_per_rank), chunks)
            cut = [[self._traffic(row, instance, slots=mine) for instance in instances] for mine in slots]
        self.traffic[row] = [sum_traffic([chunk[instance] for chunk in cut]) for instance in instances]
        return cut

    def _which_chunk(self, chunks: int) -> np.ndarray:
        """[token of an instance] the chunk it belongs to: every rank's tokens in equal, contiguous parts."""
        _, first, count = np.unique(self.exchange.source, return_index=True, return_counts=True)
        place = np.arange(self.exchange.source.size) - np.repeat(first, count)
        return place * chunks // np.repeat(count, count)

    def _traffic(
        self, row: int, instance: int, chosen: np.ndarray | None = None, slots: np.ndarray | None = None
    ) -> LayerTraffic:
        """Count one MoE layer of one instance. chosen: only these of its tokens; slots: only those of every rank."""
        routes, source = self.routes, self.exchange.source
        mine = slice(instance * source.size, (instance + 1) * source.size)
        ids = routes.ids[row, mine]
        count = None if routes.count is None else routes.count[row, mine]
        for places in (self.exchange.order, chosen):
            if places is not None:
                ids, count = ids[places], None if count is None else count[places]
        source = source if chosen is None else source[chosen]
        expert_tp = self.stage.parallelism.expert_tp
        if self.stage.alone or expert_tp == 1:
            return self._count(row, ids, source, count, slots, self._nodes[:: expert_tp if self.stage.alone else 1])
        # A token goes to the ranks with its sender's place in their groups, which then share it.
        whole = np.zeros((self.stage.parallelism.devices,) * 2, dtype=np.int64)
        parts = []
        for place in range(expert_tp):
            here = source % expert_tp == place
            part = self._count(
                row,
                ids[here],
                source[here] // expert_tp,
                None if count is None else count[here],
                slots,
                self._nodes[place::expert_tp],
            )
            whole[place::expert_tp, place::expert_tp] = part.copies
            parts.append(part)
        return replace(sum_traffic(parts), copies=whole)

    @property
    def _nodes(self) -> np.ndarray:
        """[position] server of each rank of the first instance."""
        return self.deployment.cluster.node[self.stage.ranks[0]]

    def _count(
        self,
        row: int,
        ids: np.ndarray,
        source: np.ndarray,
        count: np.ndarray | None,
        slots: np.ndarray | None,
        node: np.ndarray,
    ) -> LayerTraffic:
        """Where every rank holds all tokens, nothing is sent and only slots are counted."""
        level = "expert" if self.stage.alone else self._level
        return layer_traffic(
            self.deployment.placement, row, ids, source, level=level, node=node, count=count, slots=slots
        )

    @property
    def _level(self) -> str:
        """At which tokens are copied: the kernel's, or once a rank where a group only gathers its tokens."""
        return "rank" if self.stage.parallelism.ep == 1 else KERNELS[self.deployment.kernel].level

    def _expert_work(self, cut: dict[int, list[list[LayerTraffic]]]) -> dict[int, list[Work]]:
        """Routed experts of MoE layers [chunk], each [ranks]; layers with equal experts are priced in one call."""
        model = self.deployment.model
        kinds = {row: model.layers[model.moe_layers[row]].experts for row in cut}
        result: dict[int, list[Work]] = {row: [] for row in cut}
        for experts in dict.fromkeys(kinds.values()):
            rows = [row for row, kind in kinds.items() if kind == experts]
            for chunk in range(len(cut[rows[0]])):
                works = self._priced_experts(experts, [cut[row][chunk] for row in rows])
                for row, work in zip(rows, works, strict=True):
                    result[row].append(work)
        return result

    def _priced_experts(self, experts: Experts, layers: Sequence[Sequence[LayerTraffic]]) -> list[Work]:
        """The experts of [layer][instance] traffic: one work [ranks] a layer."""
        deployment, parallelism = self.deployment, self.stage.parallelism
        policy, here = deployment.precision, parallelism.ep_index
        cost = routed_experts(
            deployment.machine,
            np.stack([np.concatenate([part.tokens[here] for part in layer]) for layer in layers]),
            **self._entering(
                np.stack([np.concatenate([part.entering[here] for part in layer]) for layer in layers]),
                experts.top_k,
            ),
            hidden=deployment.model.expert_hidden,
            ffn=experts.ffn // parallelism.expert_tp,
            gated=experts.gated,
            weights=policy.experts,
            activations=policy.expert_activations,
            grouped=not self.stage.alone and KERNELS[deployment.kernel].sorts,
        )
        return [
            Work("experts", *(part[row] for part in (cost.seconds, cost.low, cost.high))) for row in range(len(layers))
        ]

    def _entering(self, arrived: np.ndarray, top_k: int) -> dict[str, object]:
        """What the experts' kernel sees before it spreads tokens. arrived: [layer, rank] tokens sent to it."""
        if self.stage.alone:
            return {"entering": np.full(arrived.shape, self.batch.tokens.sum()), "top_k": top_k}
        if self._level == "expert":  # every pair arrives as a token of its own
            return {}
        return {"entering": arrived, "top_k": top_k}


def sum_traffic(parts: Sequence[LayerTraffic]) -> LayerTraffic:
    """Traffic of several chunks or micro-batches of one layer together."""
    if len(parts) == 1:
        return parts[0]
    return LayerTraffic(*(sum(getattr(part, name) for part in parts) for name in ("tokens", "entering", "copies")))
