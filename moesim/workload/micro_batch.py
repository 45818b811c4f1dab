"""One micro-batch of a step: counts what it routes and prices its layers, for all ranks that run it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.cost.exchange import KERNELS, hooked
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.experts import routed_experts
from moesim.model.architecture import Experts, Layer
from moesim.placement.traffic import LayerTraffic, layer_traffic
from moesim.routing.replay import Routes
from moesim.workload import local
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.exchange import Exchange
from moesim.workload.local import Work
from moesim.workload.parts import Chunk, Exchanged, LayerParts, MoEBlock, Piece
from moesim.workload.pricing import Ledger, Pricing

_PREPARE = 2  # works of `local.attention_work` that come before the kernel: norm and projections

CUTS = ("experts", "tokens")


class MicroBatch:
    """Some of a step's tokens.

    routes: experts chosen by these tokens, in the order of the instances and their attention-DP ranks; None for a dense
    model.
    """

    def __init__(self, deployment: Deployment, batch: Batch, routes: Routes | None, ledger: Ledger):
        self.deployment, self.batch, self.routes = deployment, batch, routes
        self.pricing = Pricing(deployment, batch, ledger)
        self.exchange = Exchange(deployment, batch, self.pricing.count)
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

    def head(self) -> Piece:
        """The head on the last token of every prompt, or on all new tokens of decoded sequences."""
        work = local.head_work(self.deployment, local.head_tokens(self.batch, self.pricing.sequences))
        return Piece("head", self.pricing.on_ranks(work))

    def _layer(self, index: int, layer: Layer, block: MoEBlock | None) -> LayerParts:
        attention = self._local(local.attention_work, layer, self.batch, self.pricing.sequences)
        dense = self._local(local.dense_ffn_work, layer, self.pricing.tokens)
        core = (*attention[_PREPARE:], *self.exchange.after_attention(layer))
        if dense:
            core += (*dense, *self.exchange.all_reduce())
        after = self.exchange.after_moe() if block is not None else ()
        return LayerParts(index, attention[:_PREPARE], core, block, after)

    def _local(self, function, layer: Layer, *arguments: object) -> tuple[Piece, ...]:
        works = self.pricing.price(function, layer, *arguments)
        return tuple(Piece(work.kind, self.pricing.on_ranks(work)) for work in works)

    def _block(self, index: int, chunks: Sequence[Sequence[LayerTraffic]], work: Sequence[Work]) -> MoEBlock:
        """The MoE part. chunks: [chunk][instance] traffic; work: [chunk] of the experts, on ranks."""
        layer = self.deployment.model.layers[index]
        tokens = self.exchange.tokens_per_rank(self.pricing.tokens)
        router = self._local(local.router_work, layer, tokens)[0]
        shared_tp = self.deployment.parallelism.shared_expert_tp
        shared = self._local(local.shared_expert_work, layer, tokens, shared_tp)
        return MoEBlock(
            layer=index,
            router=router,
            shared=shared[0] if shared else None,
            chunks=tuple(self._chunk(layer, part, each) for part, each in zip(chunks, work, strict=True)),
        )

    def _chunk(self, layer: Layer, traffic: Sequence[LayerTraffic], work: Work) -> Chunk:
        self.pricing.count(work)
        sent, returned = self.exchange.dispatch_and_combine(
            np.stack([part.copies for part in traffic]), layer.experts.routed
        )
        return Chunk(
            dispatch=self._exchanged("dispatch", sent),
            experts=Piece("experts", work.seconds),
            combine=self._exchanged("combine", returned),
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
        source = self.exchange.token_sources()
        _, first, count = np.unique(source, return_index=True, return_counts=True)
        place = np.arange(source.size) - np.repeat(first, count)
        return place * chunks // np.repeat(count, count)

    def _traffic(
        self, row: int, instance: int, chosen: np.ndarray | None = None, slots: np.ndarray | None = None
    ) -> LayerTraffic:
        """Count one MoE layer of one instance. chosen: only these of its tokens; slots: only these of every rank."""
        deployment, routes = self.deployment, self.routes
        # Where attention is not data-parallel every rank holds all tokens: nothing is sent, only slots are counted.
        alone = deployment.parallelism.attention_dp == 1
        source = self.exchange.token_sources() * (not alone)
        mine = slice(instance * source.size, (instance + 1) * source.size)
        ids = routes.ids[row, mine]
        count = None if routes.count is None else routes.count[row, mine]
        if chosen is not None:
            ids, source, count = ids[chosen], source[chosen], None if count is None else count[chosen]
        return layer_traffic(
            deployment.placement,
            row,
            ids,
            source,
            level="expert" if alone else KERNELS[deployment.kernel].level,
            node=deployment.cluster.node[: deployment.parallelism.devices],
            count=count,
            slots=slots,
        )

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
        deployment = self.deployment
        policy, here = deployment.precision, deployment.parallelism.ep_index
        cost = routed_experts(
            deployment.machine,
            np.stack([np.concatenate([part.tokens[here] for part in layer]) for layer in layers]),
            **self._entering(
                np.stack([np.concatenate([part.entering[here] for part in layer]) for layer in layers]),
                experts.top_k,
            ),
            hidden=deployment.model.hidden,
            ffn=experts.ffn // deployment.parallelism.expert_tp,
            gated=experts.gated,
            weights=policy.experts,
            activations=policy.expert_activations,
        )
        return [
            Work("experts", *(part[row] for part in (cost.seconds, cost.low, cost.high))) for row in range(len(layers))
        ]

    def _entering(self, arrived: np.ndarray, top_k: int) -> dict[str, object]:
        """What the experts' kernel sees before it spreads tokens. arrived: [layer, rank] tokens sent to it."""
        deployment = self.deployment
        if deployment.parallelism.attention_dp == 1:
            return {"entering": np.full(arrived.shape, self.batch.tokens.sum()), "top_k": top_k}
        if KERNELS[deployment.kernel].level == "expert":  # every pair arrives as a token of its own
            return {}
        return {"entering": arrived, "top_k": top_k}


def sum_traffic(parts: Sequence[LayerTraffic]) -> LayerTraffic:
    """Traffic of several chunks or micro-batches of one layer together."""
    if len(parts) == 1:
        return parts[0]
    return LayerTraffic(*(sum(getattr(part, name) for part in parts) for name in ("tokens", "entering", "copies")))
