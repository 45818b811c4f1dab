"""What figures are read off: times by kind of work, tokens and latencies of a simulated scenario."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated scenario gives.

    total_s: of the step, or of the load. seconds: the same by kind of work, on the average rank or server.
    input_tokens, output_tokens, sequences: of the whole system in that time. ttft, tpot: seconds over requests by
    statistic (``mean``, ``p99`` …), empty where there are none. passes: layers that a rank runs forward and back,
    launched by its host; none from captured graphs. expert_passes: the same, as often as the rank has local experts in
    the layer, whose products are launched one by one. serial: whether the host and compute take turns. scans: 10^12
    elements of the states of linear attention that a rank updates in a training step. low, high: factors of the cost
    models' 80 % interval.
    """

    devices: int
    node: int
    total_s: float
    seconds: dict[str, float]
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    sequences: float = 0.0
    ranks: int = 1
    ttft: dict[str, float] = field(default_factory=dict)
    tpot: dict[str, float] = field(default_factory=dict)
    passes: float = 0.0
    expert_passes: float = 0.0
    serial: bool = False
    scans: float = 0.0
    model_flops: float = 0.0
    peak_flops_per_s: float = 0.0
    low: float = 1.0
    high: float = 1.0

    @property
    def tpot_s(self) -> float:
        """Mean seconds per output token of a user."""
        return self.tpot.get("mean", self.total_s)


def node_size(cluster) -> int:
    """Devices of one server: those that share a node."""
    return int(np.bincount(cluster.node).max())
