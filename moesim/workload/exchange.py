"""Where tokens live and how they travel: dispatch, combine, and what tensor parallelism adds.

Three ways of running a MoE layer follow from the degrees:

- ``attention_dp > 1, tp = 1``: every rank has its own tokens; dispatch and combine are all-to-alls.
- ``attention_dp > 1, tp > 1``: attention's partial sums are reduce-scattered, so that each rank of a tensor-parallel
  group owns its share of the group's tokens; after combine an all-gather brings them together again.
- ``attention_dp = 1``: every rank already holds all tokens and computes its own experts (or its part of each); an
  all-reduce adds the outputs up.
"""

from __future__ import annotations

import numpy as np

from moesim.cost.communication import collective
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.exchange import exchange
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.architecture import Layer
from moesim.network.transfer import Transfer
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter


class Exchange:
    """The collectives of one step of an instance, whose ranks begin at first_rank. Equal collectives are built once."""

    def __init__(self, deployment: Deployment, batch: Batch, first_rank: int = 0):
        self._deployment = deployment
        self._first_rank = first_rank
        self._tokens = batch.tokens
        self._parallelism = deployment.parallelism
        self._built: dict[str, Transfer] = {}
        # Tokens [ranks] that each rank owns when they are dispatched.
        self._owned = self.tokens_per_rank(batch.tokens)[self._parallelism.dp_index]

    @property
    def sharded(self) -> bool:
        """Whether the tokens of a tensor-parallel group are split over its ranks around the experts."""
        return self._parallelism.attention_dp > 1 and self._parallelism.tp > 1

    def token_sources(self) -> np.ndarray:
        """[token] the rank (from 0) that holds each token when it is routed; tokens in attention-DP order."""
        groups = self._parallelism.tp_groups  # [attention DP rank, tp rank]
        if not self.sharded:
            return np.repeat(groups[:, 0], self._tokens)
        shares = [np.sort(np.arange(count) % groups.shape[1]) for count in self._tokens]
        return np.concatenate([groups[dp][share] for dp, share in enumerate(shares)])

    def tokens_per_rank(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens that a rank routes when its attention-DP rank has `tokens`."""
        return -(-tokens // self._parallelism.tp) if self.sharded else tokens

    def after_attention(self, emit: Emitter, index: int, layer: Layer, after: tuple[int, ...]) -> tuple[int, ...]:
        """Add up the partial outputs of tensor-parallel attention."""
        if layer.attention is None or self._parallelism.tp == 1:
            return after
        if self.sharded and layer.experts is not None:
            return self._tensor_parallel(emit, "reduce_scatter", index, after)
        return self._tensor_parallel(emit, "all_reduce", index, after)

    def all_reduce(self, emit: Emitter, index: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """Add up partial outputs inside every tensor-parallel group."""
        return after if self._parallelism.tp == 1 else self._tensor_parallel(emit, "all_reduce", index, after)

    def after_moe(self, emit: Emitter, index: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """Bring the output of a MoE block to every rank that goes on with it."""
        if self.sharded:
            return self._tensor_parallel(emit, "all_gather", index, after)
        if self._parallelism.attention_dp == 1 and self._parallelism.devices > 1:
            return self._tensor_parallel(emit, "all_reduce", index, after)
        return after

    def dispatch_and_combine(
        self, copies: np.ndarray, experts: int
    ) -> tuple[PricedExchange | None, PricedExchange | None]:
        """The two all-to-alls of a layer with so many routed experts, from copies [source, destination].

        None where every rank holds all tokens.
        """
        if self._parallelism.attention_dp == 1:
            return None, None
        policy = self._deployment.precision
        return (
            self._all_to_all("dispatch", copies, experts, policy.dispatch),
            self._all_to_all("combine", copies.T, experts, policy.combine),
        )

    def _all_to_all(self, phase: str, copies: np.ndarray, experts: int, precision: Precision) -> PricedExchange:
        deployment = self._deployment
        return exchange(
            deployment.machine,
            deployment.network,
            self._first_rank + np.arange(self._parallelism.devices),
            copies,
            kernel=deployment.kernel,
            phase=phase,
            tokens=self._owned,
            hidden=deployment.model.hidden,
            experts=experts,
            precision=precision,
            fidelity=deployment.fidelity,
        )

    def _tensor_parallel(self, emit: Emitter, kind: str, index: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """One collective of all tensor-parallel groups at once over their hidden states in BF16."""
        if kind not in self._built:
            deployment = self._deployment
            size = float(self._tokens.max(initial=0)) * deployment.model.hidden * PRECISIONS["bf16"].bytes
            groups = self._first_rank + self._parallelism.tp_groups
            self._built[kind] = collective(
                deployment.machine, deployment.network, kind, groups, size, fidelity=deployment.fidelity
            )
        return (emit.communicate(kind, index, self._built[kind], after),)
