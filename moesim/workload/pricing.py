"""Prices work once for each kind of layer, and keeps the sums of a step by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moesim.model.architecture import Layer
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.local import Work
from moesim.workload.stage import Stage


@dataclass(slots=True, eq=False)
class Ledger:
    """What a step costs by kind, each operation as long as its slowest rank; and what was priced before."""

    total: dict[str, Work] = field(default_factory=dict)
    priced: dict[tuple, list[Work]] = field(default_factory=dict)

    def count(self, work: Work) -> None:
        """Add the slowest rank of a work to the totals of its kind."""
        slowest = Work(work.kind, *(part.max(initial=0.0) for part in (work.seconds, work.low, work.high)))
        so_far = self.total.get(work.kind, Work(work.kind, 0.0, 0.0, 0.0))
        self.total[work.kind] = Work(
            work.kind, so_far.seconds + slowest.seconds, so_far.low + slowest.low, so_far.high + slowest.high
        )


class Pricing:
    """Prices the local work of one micro-batch on one stage: most layers of a model are alike, and so are most ranks.

    batch: of the micro-batch; ranks with equally many sequences do the same work.
    """

    def __init__(self, deployment: Deployment, stage: Stage, batch: Batch, ledger: Ledger):
        self.deployment, self.batch, self._ledger = deployment, batch, ledger
        self.sequences, dp_index = np.unique(batch.sequences, return_inverse=True)
        self._of_rank = np.tile(dp_index[stage.parallelism.dp_index], deployment.instances)
        self._cp = stage.parallelism.cp

    @property
    def tokens(self) -> np.ndarray:
        """New tokens of a rank, its part of the sequences, for each number of sequences of its replica."""
        return -(-self.sequences * self.batch.new_tokens // self._cp)

    def price(self, function: Callable[..., list[Work]], layer: Layer, *arguments: object) -> list[Work]:
        """What the function says of a layer, asked once for equal layers and sequences."""
        key = (function, layer, self.sequences.tobytes())
        if key not in self._ledger.priced:
            self._ledger.priced[key] = function(self.deployment, layer, *arguments)
        return self._ledger.priced[key]

    def on_ranks(self, work: Work) -> np.ndarray:
        """Seconds [ranks] of a work by number of sequences, after adding it to the totals."""
        self._ledger.count(work)
        return work.seconds[self._of_rank]

    def count(self, work: Work) -> None:
        """Add a work [ranks] to the totals."""
        self._ledger.count(work)
