"""A step cut into micro-batches: what overlap functions ask for layers, and what pipeline stages pass on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from moesim.placement.traffic import LayerTraffic
from moesim.routing.replay import Routes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.micro_batch import MicroBatch, sum_traffic
from moesim.workload.parts import LayerParts, Piece
from moesim.workload.pricing import Ledger
from moesim.workload.stage import Stage


class StepSplit:
    """A `moesim.workload.overlap.Split` of the layers of one stage. Micro-batches are made when they are first asked
    for, and layers priced once."""

    def __init__(self, deployment: Deployment, stage: Stage, batch: Batch, routes: Routes | None, ledger: Ledger):
        self._deployment, self._stage, self._ledger = deployment, stage, ledger
        self._batch, self._routes = batch, routes
        self._made: dict[int, list[MicroBatch]] = {}
        self._priced: dict[tuple, tuple[tuple[LayerParts, ...], ...]] = {}
        self.phase = batch.phase
        self.layers = len(stage.layers)
        routed = [index - stage.layers.start for index in deployment.model.moe_layers if index in stage.layers]
        self.first_moe = min(routed, default=self.layers)
        self.divisible = int(batch.sequences.min()) if batch.sequences.size else 0

    def __call__(
        self, *, batches: int = 1, chunks: int = 1, by: str = "tokens", layers: slice = slice(None)
    ) -> tuple[tuple[LayerParts, ...], ...]:
        """As `moesim.workload.overlap.Split` says."""
        indices = self._stage.layers[layers]
        key = (batches, chunks, by, indices)
        if key not in self._priced:
            self._priced[key] = tuple(part.layers(indices, chunks, by) for part in self._micro_batches(batches))
        return self._priced[key]

    def head(self) -> tuple[Piece, ...]:
        """The head, on the whole batch: engines join micro-batches again before it."""
        return self._micro_batches(1)[0].head()

    def received(self) -> tuple[Piece, ...]:
        """What a stage does with tokens that came from the one before."""
        return self._micro_batches(1)[0].exchange.received()

    def traffic(self) -> dict[int, list[LayerTraffic]]:
        """{MoE layer: [instance]} of all that was priced."""
        parts = [part for made in self._made.values() for part in made]
        rows = sorted({row for part in parts for row in part.traffic})
        instances = range(self._deployment.instances)
        return {
            row: [sum_traffic([part.traffic[row][i] for part in parts if row in part.traffic]) for i in instances]
            for row in rows
        }

    def _micro_batches(self, batches: int) -> list[MicroBatch]:
        if batches not in self._made:
            self._made[batches] = [
                MicroBatch(self._deployment, self._stage, batch, routes, self._ledger)
                for batch, routes in cut_batch(self._batch, self._routes, batches, self._deployment.instances)
            ]
        return self._made[batches]


def cut_batch(batch: Batch, routes: Routes | None, batches: int, instances: int) -> list[tuple[Batch, Routes | None]]:
    """Every replica's sequences in so many runs of equal length, longer by one here and there where they do not
    divide."""
    if batches == 1:
        return [(batch, routes)]
    sequences, new = batch.sequences, batch.new_tokens
    edges = [-(-sequences * part // batches) for part in range(batches + 1)]
    everyone = np.tile(sequences, instances)
    place = np.concatenate([np.arange(count * new) // new for count in everyone])  # [token] sequence of its replica
    replica = np.repeat(np.tile(np.arange(sequences.size), instances), everyone * new)
    cut = []
    for begin, end in pairwise(edges):
        mine = np.flatnonzero((place >= begin[replica]) & (place < end[replica]))
        cut.append((replace(batch, sequences=end - begin), _some(routes, mine)))
    return cut


def _some(routes: Routes | None, tokens: np.ndarray) -> Routes | None:
    """The routes of some of a step's tokens; offsets stay those of the step."""
    if routes is None:
        return None
    count = None if routes.count is None else routes.count[:, tokens]
    return replace(routes, ids=routes.ids[:, tokens], count=count)
