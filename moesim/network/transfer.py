"""What one collective asks of the network: the value that passes between the network and the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """One collective on the wire.

    name: e.g. ``all_to_all``. ranks: [members] global ranks, in the order of the arrays below.
    links, load: [loaded links] link ids of the network and bytes that the collective puts on each.
    wire_s: seconds on the wire when alone: load over capacity of the bottleneck link, or longer where flows wait for
        each other (`flow`, and `coflow` where single messages are heavy).
    arrived: [members] share of `wire_s` after which the member's last byte has arrived, in [0, 1].
    latency_s: [members] fixed seconds added to a member's finish (kernel floor, hops).
    group: [members] members of one group wait for each other before their bytes flow; groups of one collective are
        independent (eight tensor-parallel all-reduces are one collective with eight groups).
    sent, received: [members] bytes.
    flows: under the `flow` fidelity the share [flows, links] of each flow on each link (scipy CSR), else None.
    """

    name: str
    ranks: np.ndarray
    links: np.ndarray
    load: np.ndarray
    wire_s: float
    arrived: np.ndarray
    latency_s: np.ndarray
    group: np.ndarray
    sent: np.ndarray
    received: np.ndarray
    flows: object | None = None

    @property
    def alone_s(self) -> np.ndarray:
        """Seconds [members] when everybody is on time and the network is empty."""
        return self.arrived * self.wire_s + self.latency_s

    def alone(self, arrival: np.ndarray) -> np.ndarray:
        """Finish [members] in seconds for arrivals [members], without other traffic."""
        start = np.full(int(self.group.max(initial=0)) + 1, -np.inf)
        np.maximum.at(start, self.group, arrival)
        return start[self.group] + self.alone_s
