"""Where traffic goes: a cluster's graph and routing as fast array code.

`build_network` turns a `Cluster` into a `Network`. Pairs are given as arrays of sources and targets that broadcast
against the traffic: ranks[:, None] and ranks[None, :] with a matrix, or three equally long lists. No routing makes an
array of pairs × links; each adds traffic up in the way that its fabric allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import networkx as nx
import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.topology import Cluster
from moesim.network.crossbar import crossbar
from moesim.network.hierarchy import hierarchical
from moesim.network.links import BLOCK, Links, Lookup, blocks, read_links
from moesim.network.shortest import shortest
from moesim.network.torus import dimension_order


class Routes(Protocol):
    """What a routing must answer about pairs of ranks. Traffic of a rank to itself never comes here.

    complete: every rank reaches every other, so that nobody needs to ask.
    """

    complete: bool

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes [links]; source and target broadcast to the shape of traffic (bytes)."""

    def worst(self, value: np.ndarray) -> Lookup:
        """A function of (source, target) that gives the largest value of the links each pair uses.

        value: [links], not negative.
        """

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds that the first byte of each pair takes: the latencies of its links, of the longest path it uses."""

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether each pair has a path."""

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share): the links of pairs [pairs] one by one, for per-flow sharing and for tests. Slow."""


ROUTINGS: dict[str, Callable[[Cluster, Links], Routes]] = {
    "crossbar": crossbar,
    "hierarchical": hierarchical,
    "dimension_order": dimension_order,
    "shortest": shortest,
}


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Links and routes of a cluster.

    devices: [ranks] names; domain: [ranks] scale-up domain. ports, port_rank: [ports] links that leave a device, and
    the rank that they leave. known: what `farthest` has answered, by group. ways: what
    `moesim.network.heavy` has found about sets of pairs.
    """

    links: Links
    routes: Routes
    devices: tuple[str, ...]
    domain: np.ndarray
    ports: np.ndarray
    port_rank: np.ndarray
    known: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)
    ways: dict[bytes, object] = field(default_factory=dict, repr=False)

    @property
    def capacity(self) -> np.ndarray:
        """Bytes/s [links]."""
        return self.links.capacity

    @property
    def switched(self) -> bool:
        """Whether the ranks of a domain meet at NVLink switches, which can add up and multicast."""
        return "nvlink" in self.links.kind

    @property
    def meshed(self) -> bool:
        """Whether some ranks are joined by links of their own, without a switch."""
        names = set(self.devices)
        return any(near in names and far in names for near, far in self.links.ends)

    @property
    def torus(self) -> bool:
        """Whether ranks have coordinates."""
        return hasattr(self.routes, "coordinates")

    @property
    def ranks(self) -> int:
        """Number of devices."""
        return len(self.devices)

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes that traffic puts on each link [links]. A rank's traffic to itself loads nothing.

        source, target: ranks, broadcasting to the shape of traffic (bytes). Raises InvalidInput for bytes between two
        ranks that no path joins.
        """
        total = np.zeros(len(self.links.ends))
        for near, far, part in blocks(source, target, traffic.shape):
            amount = np.where(near == far, 0.0, traffic[part])
            if not self.routes.complete:
                self._refuse_unreachable(near, far, amount)
            total += self.routes.load(near, far, amount)
        return total

    def worst(self, source: np.ndarray, target: np.ndarray, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Largest value [links] on the way of each pair, in the shape to which source and target broadcast."""
        result, look_up = np.empty(shape), self.routes.worst(value)
        for near, far, part in blocks(source, target, shape):
            result[part] = look_up(near, far)
        return result

    def own_ports(self, value: np.ndarray) -> np.ndarray:
        """Largest value [links] of the links that leave each rank [ranks]."""
        largest = np.zeros(self.ranks)
        np.maximum.at(largest, self.port_rank, value[self.ports])
        return largest

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds that the first byte of each pair takes, in the shape to which source and target broadcast."""
        return self.routes.latency(source, target)

    def farthest(self, ranks: np.ndarray) -> np.ndarray:
        """Seconds [groups, members] that the first byte takes to each member from the farthest member of its group.

        Every layer of a model asks for the same groups, so answers are kept.
        """
        key = ranks.tobytes()
        if key not in self.known:
            self.known[key] = np.zeros(ranks.shape)
            rows = max(1, BLOCK // ranks.shape[1])
            for group, worst in zip(ranks, self.known[key], strict=True):
                for first in range(0, len(group), rows):
                    part = self.latency(group[first : first + rows, None], group[None, :])
                    np.maximum(worst, part.max(axis=0), out=worst)
        return self.known[key]

    def reaching(self, share: np.ndarray) -> Network:
        """The same network when only a share [links] of each capacity can be reached."""
        return replace(self, links=replace(self.links, capacity=self.links.capacity * share))

    def nearest_latency(self, ranks: np.ndarray) -> float:
        """Seconds between the two nearest of the first group's ranks [groups, members]; 0 for a group of one."""
        first, others = ranks[0, :1], ranks[0, 1:]
        return float(self.latency(first, others).min()) if others.size else 0.0

    def _refuse_unreachable(self, source: np.ndarray, target: np.ndarray, amount: np.ndarray) -> None:
        stuck = ~self.routes.reachable(source, target) & (amount > 0)
        if stuck.any():
            first = tuple(axis[0] for axis in np.nonzero(stuck))
            near, far = (int(np.broadcast_to(end, stuck.shape)[first]) for end in (source, target))
            ends = self.devices[near], self.devices[far]
            raise InvalidInput(
                f"no path from {ends[0]} to {ends[1]} (rank {near} to rank {far}) and {int(stuck.sum()) - 1} more "
                f"pairs; {self._remedy(*ends)}, or leave cut-off ranks out of the job"
            )

    def _remedy(self, near: str, far: str) -> str:
        """What joins two devices that this routing does not."""
        graph = nx.DiGraph(self.links.ends)
        if near in graph and far in graph and nx.has_path(graph, near, far):
            return "routing: shortest goes round what is dead, through other devices if need be; use that"
        return "join them by links"


def build_network(cluster: Cluster) -> Network:
    """Read the links of a cluster and prepare its routing.

    Raises InvalidInput for an unknown routing, links without capacity or latency, and devices outside the graph.
    """
    if cluster.routing not in ROUTINGS:
        raise InvalidInput(f"routing {cluster.routing!r} is unknown; write one of {', '.join(sorted(ROUTINGS))}")
    links = read_links(cluster)
    rank_of = {name: rank for rank, name in enumerate(cluster.devices)}
    ports = [(link, rank_of[near]) for link, (near, _) in enumerate(links.ends) if near in rank_of]
    link, rank = np.array(ports, dtype=np.int64).reshape(-1, 2).T
    routes = ROUTINGS[cluster.routing](cluster, links)
    return Network(links, routes, cluster.devices, np.asarray(cluster.domain), link, rank)
