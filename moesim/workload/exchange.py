"""Where tokens live and how they travel: dispatch, combine, and what tensor, context and pipeline parallelism add.

Ways of running a MoE layer follow from the degrees:

- ``attention_dp · cp > 1, tp = 1``: every rank has its own tokens; dispatch and combine are all-to-alls.
- ``attention_dp · cp > 1, tp > 1``: attention's partial sums are reduce-scattered, so that each rank of a
  tensor-parallel group owns its share of the group's tokens; after combine an all-gather brings them together again.
- ``attention_dp · cp = 1``: every rank already holds all tokens and computes its own experts (or its part of each); an
  all-reduce adds the outputs up.

With ``expert_tp > 1`` besides own tokens, a token is dispatched to the rank of the expert's group that has its sender's
place in it; the group then gathers its tokens, each rank computes its part of every expert, and partial outputs are
reduce-scattered before combine (Megatron-Core's expert tensor parallelism).

Sequence parallelism leaves the residual split over the tensor-parallel ranks, so that all-reduces become a
reduce-scatter behind a block and an all-gather in front of the next (Korthikanti et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moesim.cost.communication import collective, library, message
from moesim.cost.exchange import Exchange as PricedExchange
from moesim.cost.exchange import exchange
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.architecture import Layer
from moesim.network.transfer import Transfer
from moesim.placement.traffic import LayerTraffic
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.local import Work
from moesim.workload.parts import Piece
from moesim.workload.stage import Stage

BF16 = PRECISIONS["bf16"].bytes


class Exchange:
    """The collectives of one micro-batch on one stage, of all instances at once. Equal collectives are built once.

    count: called with the work of every collective that is handed out.
    """

    def __init__(self, deployment: Deployment, stage: Stage, batch: Batch, count: Callable[[Work], object]):
        self._count, self._deployment, self._stage, self._batch = count, deployment, stage, batch
        self._parallelism = stage.parallelism
        self._built: dict[tuple, tuple[Transfer, str]] = {}
        source = holders(stage, batch)
        # A token's place among those of its instance, holders in rising order; None where they are already.
        self.order = None if (np.diff(source) >= 0).all() else np.argsort(source, kind="stable")
        self.source = source if self.order is None else source[self.order]
        owned = np.bincount(self.source, minlength=stage.parallelism.devices)
        self._owned = np.tile(owned, deployment.instances)  # [ranks] tokens that each dispatches

    @property
    def _split(self) -> bool:
        """Whether the residual is split over tensor-parallel ranks between blocks."""
        return self._deployment.sequence_parallel and self._parallelism.tp > 1

    def received(self) -> tuple[Piece, ...]:
        """Put slices that came from the stage before together, unless the residual stays split."""
        whole = self._parallelism.tp == 1 or self._split
        return () if whole else self._tensor_parallel("all_gather")

    def before_projections(self) -> tuple[Piece, ...]:
        """Bring the tokens of a tensor-parallel group together, where the residual is split."""
        return self._tensor_parallel("all_gather") if self._split else ()

    def after_attention(self, layer: Layer) -> tuple[Piece, ...]:
        """Add up the partial outputs of tensor-parallel attention."""
        if layer.attention is None or self._parallelism.tp == 1:
            return ()
        scattered = self._split or (self._stage.sharded and layer.experts is not None)
        return self._tensor_parallel("reduce_scatter" if scattered else "all_reduce")

    def around_ffn(self) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """What stands before and behind a dense feed-forward part."""
        if self._parallelism.tp == 1:
            return (), ()
        if self._split:
            return self._tensor_parallel("all_gather"), self._tensor_parallel("reduce_scatter")
        return (), self._tensor_parallel("all_reduce")

    def before_moe(self) -> tuple[Piece, ...]:
        """Bring all tokens to every rank, where nothing is dispatched and the residual is split."""
        return self._tensor_parallel("all_gather") if self._split and self._stage.alone else ()

    def after_moe(self) -> tuple[Piece, ...]:
        """Bring the output of a MoE block to every rank that goes on with it."""
        if self._stage.sharded:
            return () if self._split else self._tensor_parallel("all_gather")
        if self._stage.alone and self._parallelism.devices > 1:
            return self._tensor_parallel("reduce_scatter" if self._split else "all_reduce")
        return ()

    def before_head(self) -> tuple[Piece, ...]:
        """Bring each sequence's last token to every tensor-parallel rank, where the residual is split."""
        if not self._split:
            return ()
        size = float(self._batch.sequences.max(initial=0)) * self._deployment.model.hidden * BF16
        return (self.collective("all_gather", self._parallelism.tp_groups, size),)

    def dispatch_and_combine(
        self, traffic: Sequence[LayerTraffic], experts: int
    ) -> tuple[PricedExchange | None, PricedExchange | None]:
        """The two all-to-alls of a layer with so many routed experts, from the traffic of each instance.

        None where every rank holds all tokens, or where all experts stand in one group.
        """
        if self._stage.alone or self._parallelism.ep == 1:
            return None, None
        policy, groups = self._deployment.precision, self._parallelism.ep_groups  # [expert tp, ep]
        copies = np.stack([part.copies[groups[:, :, None], groups[:, None, :]] for part in traffic])
        copies = copies.reshape(-1, *copies.shape[2:]).astype(float)
        return (
            self._all_to_all("dispatch", copies, experts, policy.dispatch),
            self._all_to_all("combine", copies.swapaxes(1, 2), experts, policy.combine),
        )

    def around_experts(self, traffic: Sequence[LayerTraffic]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """What brings tokens to all ranks that split an expert, and their partial outputs back. Groups of unequal load
        take as long as the fullest."""
        if self._stage.alone or self._parallelism.expert_tp == 1:
            return (), ()
        policy, groups = self._deployment.precision, self._parallelism.expert_tp_groups
        tokens = max(float(part.entering.max(initial=0)) for part in traffic) * self._deployment.model.hidden
        gather = self.collective("all_gather", groups, tokens * policy.dispatch.bytes, name="expert_gather")
        scatter = self.collective("reduce_scatter", groups, tokens * policy.combine.bytes, name="expert_scatter")
        return (gather,), (scatter,)

    def collective(self, kind: str, groups: np.ndarray, size: float, name: str = "") -> Piece:
        """A collective of groups [group, member] of the stage's positions, of all instances, over `size` bytes."""
        key = (kind, groups.tobytes(), size)
        if key not in self._built:
            deployment = self._deployment
            ranks = self._stage.ranks[:, groups].reshape(-1, groups.shape[1])
            self._built[key] = (
                collective(deployment.machine, deployment.network, kind, ranks, size, fidelity=deployment.fidelity),
                kind,
            )
        return self._counted(name or kind, *self._built[key])

    def message(self, name: str, source: np.ndarray, target: np.ndarray, size: float) -> Piece:
        """Messages of `size` bytes between positions of the stage, of all instances."""
        key = (source.tobytes(), target.tobytes(), size)
        if key not in self._built:
            deployment = self._deployment
            ends = (self._stage.ranks[:, side].ravel() for side in (source, target))
            sent = message(
                deployment.machine, deployment.network, *ends, np.array(size), fidelity=deployment.fidelity, name=name
            )
            self._built[key] = (sent, "point_to_point")
        return self._counted(name, *self._built[key])

    def _tensor_parallel(self, kind: str) -> tuple[Piece, ...]:
        """One collective of all tensor-parallel groups at once over their hidden states in BF16."""
        tokens = -(-self._batch.tokens.max(initial=0) // self._parallelism.cp)
        size = float(tokens) * self._deployment.model.hidden * BF16
        return (self.collective(kind, self._parallelism.tp_groups, size),)

    def _counted(self, name: str, transfer: Transfer, kind: str) -> Piece:
        low, high = library(self._deployment.machine, kind).interval
        self._count(Work(name, transfer.alone_s, transfer.alone_s * low, transfer.alone_s * high))
        return Piece(name, transfer=transfer)

    def _all_to_all(self, phase: str, copies: np.ndarray, experts: int, precision: Precision) -> PricedExchange:
        deployment, groups = self._deployment, self._parallelism.ep_groups
        owned = self._owned.reshape(deployment.instances, -1)[:, groups]
        return exchange(
            deployment.machine,
            deployment.network,
            self._stage.ranks[:, groups].reshape(-1, groups.shape[1]),
            copies,
            kernel=deployment.kernel,
            phase=phase,
            tokens=owned.ravel(),
            hidden=deployment.model.expert_hidden,
            experts=experts,
            precision=precision,
            fidelity=deployment.fidelity,
        )


def holders(stage: Stage, batch: Batch) -> np.ndarray:
    """[token] position in the stage of the rank that routes each token of an instance; tokens in attention-DP order.

    Context parallelism cuts every prompt into 2·cp runs and gives a rank one from either end, so that causal attention
    is as long on each (zigzag); in decode it deals out the sequences.
    """
    p = stage.parallelism
    if stage.alone:
        return np.zeros(int(batch.tokens.sum()), dtype=np.int64)
    found = []
    for replica, count in enumerate(batch.tokens):
        cp = _context_part(int(count), batch, p.cp)
        if stage.sharded:
            tp = np.empty(count, dtype=np.int64)
            for part in range(p.cp):
                mine = np.flatnonzero(cp == part)
                tp[mine] = np.arange(mine.size) * p.tp // max(mine.size, 1)
        else:
            tp = 0
        found.append(p.grid[0, replica, cp, tp])
    return np.concatenate(found)


def _context_part(count: int, batch: Batch, cp: int) -> np.ndarray:
    """[token] context-parallel rank of each token of a replica."""
    place = np.arange(count)
    if cp == 1 or batch.phase == "decode":
        return place * cp // max(count, 1)
    run = place % batch.new_tokens * 2 * cp // batch.new_tokens
    return np.minimum(run, 2 * cp - 1 - run)


def most_held(stage: Stage, batch: Batch) -> int:
    """Tokens of the rank that routes most of them: the largest count of `holders`, without listing the tokens."""
    p = stage.parallelism
    if stage.alone:
        return int(batch.tokens.sum())
    parts = max(_largest_part(int(count), batch, p.cp) for count in batch.tokens)
    return -(-parts // p.tp) if stage.sharded else parts


def _largest_part(count: int, batch: Batch, cp: int) -> int:
    """Tokens of the context-parallel rank of a replica that has most."""
    if cp == 1 or batch.phase == "decode":
        return -(-count // cp)
    ends = -(-np.arange(2 * cp + 1) * batch.new_tokens // (2 * cp))  # where each run of a prompt begins
    runs = np.diff(ends)
    return count // batch.new_tokens * int((runs + runs[::-1])[:cp].max())
