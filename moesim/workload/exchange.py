"""Where tokens live and how they travel: dispatch, combine, and what tensor parallelism adds.

Three ways of running a MoE layer follow from the degrees:

- ``attention_dp > 1, tp = 1``: every rank has its own tokens; dispatch and combine are all-to-alls.
- ``attention_dp > 1, tp > 1``: attention's partial sums are reduce-scattered, so that each rank of a tensor-parallel
  group owns its share of the group's tokens; after combine an all-gather brings them together again.
- ``attention_dp = 1``: every rank already holds all tokens and computes its own experts (or its part of each); an
  all-reduce adds the outputs up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.cost.communication import collective, library
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.exchange import exchange
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.architecture import Layer
from moesim.network.transfer import Transfer
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.local import Work
from moesim.workload.parts import Piece


class Exchange:
    """The collectives of one step, of all instances at once. Equal collectives are built once.

    count: called with the work of every tensor-parallel collective that is emitted.
    """

    def __init__(self, deployment: Deployment, batch: Batch, count: Callable[[Work], object]):
        self._count = count
        self._deployment = deployment
        self._instances = np.arange(deployment.cluster.ranks).reshape(deployment.instances, -1)  # [instance, rank]
        self._tokens = batch.tokens
        self._parallelism = deployment.parallelism
        self._built: dict[str, Transfer] = {}
        # Tokens [ranks] that each rank owns when they are dispatched.
        owned = self.tokens_per_rank(batch.tokens)[self._parallelism.dp_index]
        self._owned = np.tile(owned, deployment.instances)

    @property
    def sharded(self) -> bool:
        """Whether the tokens of a tensor-parallel group are split over its ranks around the experts."""
        return self._parallelism.attention_dp > 1 and self._parallelism.tp > 1

    def token_sources(self) -> np.ndarray:
        """[token] the rank of an instance that holds each of its tokens when routed; tokens in attention-DP order."""
        groups = self._parallelism.tp_groups  # [attention DP rank, tp rank]
        if not self.sharded:
            return np.repeat(groups[:, 0], self._tokens)
        shares = [np.sort(np.arange(count) % groups.shape[1]) for count in self._tokens]
        return np.concatenate([groups[dp][share] for dp, share in enumerate(shares)])

    def tokens_per_rank(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens that a rank routes when its attention-DP rank has `tokens`."""
        return -(-tokens // self._parallelism.tp) if self.sharded else tokens

    def after_attention(self, layer: Layer) -> tuple[Piece, ...]:
        """Add up the partial outputs of tensor-parallel attention."""
        if layer.attention is None or self._parallelism.tp == 1:
            return ()
        scattered = self.sharded and layer.experts is not None
        return self._tensor_parallel("reduce_scatter" if scattered else "all_reduce")

    def all_reduce(self) -> tuple[Piece, ...]:
        """Add up partial outputs inside every tensor-parallel group."""
        return () if self._parallelism.tp == 1 else self._tensor_parallel("all_reduce")

    def after_moe(self) -> tuple[Piece, ...]:
        """Bring the output of a MoE block to every rank that goes on with it."""
        if self.sharded:
            return self._tensor_parallel("all_gather")
        if self._parallelism.attention_dp == 1 and self._parallelism.devices > 1:
            return self._tensor_parallel("all_reduce")
        return ()

    def dispatch_and_combine(
        self, copies: np.ndarray, experts: int
    ) -> tuple[PricedExchange | None, PricedExchange | None]:
        """The two all-to-alls of a layer with so many routed experts, from copies [instance, source, destination].

        None where every rank holds all tokens.
        """
        if self._parallelism.attention_dp == 1:
            return None, None
        policy = self._deployment.precision
        return (
            self._all_to_all("dispatch", copies, experts, policy.dispatch),
            self._all_to_all("combine", copies.swapaxes(1, 2), experts, policy.combine),
        )

    def _all_to_all(self, phase: str, copies: np.ndarray, experts: int, precision: Precision) -> PricedExchange:
        deployment = self._deployment
        return exchange(
            deployment.machine,
            deployment.network,
            self._instances,
            copies,
            kernel=deployment.kernel,
            phase=phase,
            tokens=self._owned,
            hidden=deployment.model.hidden,
            experts=experts,
            precision=precision,
            fidelity=deployment.fidelity,
        )

    def _tensor_parallel(self, kind: str) -> tuple[Piece, ...]:
        """One collective of all tensor-parallel groups at once over their hidden states in BF16."""
        if kind not in self._built:
            deployment = self._deployment
            size = float(self._tokens.max(initial=0)) * deployment.model.hidden * PRECISIONS["bf16"].bytes
            groups = self._instances[:, self._parallelism.tp_groups].reshape(-1, self._parallelism.tp)
            self._built[kind] = collective(
                deployment.machine, deployment.network, kind, groups, size, fidelity=deployment.fidelity
            )
        transfer = self._built[kind]
        low, high = library(self._deployment.machine, kind).interval
        self._count(Work(kind, transfer.alone_s, transfer.alone_s * low, transfer.alone_s * high))
        return (Piece(kind, transfer=transfer),)
