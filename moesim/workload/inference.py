"""One inference step as a program: attention, router, dispatch, experts, shared expert, combine; layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from moesim.engine.program import Program
from moesim.model.architecture import require_shapes
from moesim.placement.traffic import LayerTraffic
from moesim.routing.replay import Routes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.local import Work
from moesim.workload.micro_batch import MicroBatch, sum_traffic
from moesim.workload.parts import LayerParts
from moesim.workload.pricing import Ledger


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
    dense model. overlap: one of `moesim.workload.overlap.OVERLAPS`, its keys bound.
    """
    return inference_steps(deployment, batch, [routes], [overlap])[0]


def inference_steps(
    deployment: Deployment, batch: Batch, routes: Sequence[Routes | None], overlaps: Sequence[Callable]
) -> list[Step]:
    """The programs of several steps of one batch, each with its own routes and overlap; alike kernels are priced once.

    Every step carries the work of all of them.
    """
    require_shapes(deployment.model)
    ledger, steps = Ledger(), []
    for chosen, overlap in zip(routes, overlaps, strict=True):
        split = StepSplit(deployment, batch, chosen, ledger)
        emit = Emitter(np.arange(deployment.cluster.ranks))
        after = overlap(emit, split, ())
        emit.piece(split.head(), -1, after)
        steps.append(Step(emit.program(), split.traffic(), ledger.total))
    return steps


class StepSplit:
    """A `moesim.workload.overlap.Split` of a step. Micro-batches are made when they are first asked for."""

    def __init__(self, deployment: Deployment, batch: Batch, routes: Routes | None, ledger: Ledger):
        self._deployment, self._batch, self._routes = deployment, batch, routes
        self._made: dict[int, list[MicroBatch]] = {}
        self._ledger = ledger
        self.phase = batch.phase
        self.layers = len(deployment.model.layers)
        self.first_moe = min(deployment.model.moe_layers, default=self.layers)
        self.divisible = int(batch.sequences.min()) if batch.sequences.size else 0

    def __call__(
        self, *, batches: int = 1, chunks: int = 1, by: str = "tokens", layers: slice = slice(None)
    ) -> tuple[tuple[LayerParts, ...], ...]:
        """As `moesim.workload.overlap.Split` says."""
        indices = range(self.layers)[layers]
        return tuple(part.layers(indices, chunks, by) for part in self._micro_batches(batches))

    def head(self):
        """The head, on the whole batch: engines join micro-batches again before it."""
        return self._micro_batches(1)[0].head()

    def traffic(self) -> tuple[tuple[LayerTraffic, ...], ...]:
        """[instance][moe_layer] all that was priced."""
        parts = [part for made in self._made.values() for part in made]
        rows = sorted({row for part in parts for row in part.traffic})
        return tuple(
            tuple(sum_traffic([part.traffic[row][instance] for part in parts if row in part.traffic]) for row in rows)
            for instance in range(self._deployment.instances)
        )

    def _micro_batches(self, batches: int) -> list[MicroBatch]:
        if batches not in self._made:
            self._made[batches] = [
                MicroBatch(self._deployment, batch, routes, self._ledger) for batch, routes in self._cut(batches)
            ]
        return self._made[batches]

    def _cut(self, batches: int) -> Sequence[tuple[Batch, Routes | None]]:
        """Every rank's sequences in so many runs of equal length, the first ones longer by one where they do not
        divide."""
        if batches == 1:
            return [(self._batch, self._routes)]
        sequences, new = self._batch.sequences, self._batch.new_tokens
        edges = [-(-sequences * part // batches) for part in range(batches + 1)]
        everyone = np.tile(sequences, self._deployment.instances)
        # [token] which of its rank's sequences a token belongs to, as a share of them
        place = np.concatenate([np.arange(count * new) // new for count in everyone]) if everyone.size else everyone
        rank = np.repeat(np.tile(np.arange(sequences.size), self._deployment.instances), everyone * new)
        cut = []
        for begin, end in pairwise(edges):
            mine = np.flatnonzero((place >= begin[rank]) & (place < end[rank]))
            cut.append((replace(self._batch, sequences=end - begin), _some(self._routes, mine)))
        return cut


def _some(routes: Routes | None, tokens: np.ndarray) -> Routes | None:
    """The routes of some of a step's tokens; offsets stay those of the step."""
    if routes is None:
        return None
    count = None if routes.count is None else routes.count[:, tokens]
    return replace(routes, ids=routes.ids[:, tokens], count=count)
