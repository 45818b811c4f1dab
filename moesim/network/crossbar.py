"""One switched scale-up domain (or several, each of its own): NVLink switch planes, or one PCIe root.

A device has one port to each plane, and traffic between two devices spreads evenly over the planes that both reach, as
NVLink hashes addresses over its links. So the load of a port is a row or column sum of the traffic: no pair is looked
at by itself. A dead port only changes which planes are common: ranks are classed by the set of planes they reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.topology import Cluster
from moesim.network.links import Links, Lookup, accumulate, at, onto


@dataclass(frozen=True, slots=True, eq=False)
class Crossbar:
    """Routes through the planes of a rank's own domain.

    up, down: [ranks, planes] link id of the port to and from each plane, −1 where dead. domain: [ranks]. class_of:
    [ranks] class of a rank; ranks of one class have the same ports alive. share: [class, class, planes] part of the
    traffic from a rank of the first class to one of the second that takes each plane.
    """

    links: Links
    up: np.ndarray
    down: np.ndarray
    domain: np.ndarray
    class_of: np.ndarray
    share: np.ndarray

    @property
    def complete_within(self) -> bool:
        """Whether every rank reaches every other of its domain."""
        return bool((self.share.sum(axis=2) > 0).all())

    @property
    def complete(self) -> bool:
        """Whether every rank reaches every other."""
        return self.complete_within and bool((self.domain == self.domain[0]).all())

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes on each link, see `Routes`."""
        classes = self.share.shape[0]
        ranks = len(self.domain)
        sent = accumulate(source * classes + self._class(target), traffic, ranks * classes)
        received = accumulate(target * classes + self._class(source), traffic, ranks * classes)
        sent, received = sent.reshape(ranks, classes), received.reshape(ranks, classes)
        up = np.einsum("rc,rcp->rp", sent, self.share[self.class_of])
        down = np.einsum("rc,rcp->rp", received, self.share.swapaxes(0, 1)[self.class_of])
        return onto(self.links, (self.up, up), (self.down, down))

    def worst(self, value: np.ndarray) -> Lookup:
        """Largest value of a link on the way of pairs, see `Routes`."""
        used = self.share > 0
        up = np.where(used[self.class_of], at(value, self.up)[:, None, :], 0.0).max(axis=2)
        down = np.where(used.swapaxes(0, 1)[self.class_of], at(value, self.down)[:, None, :], 0.0).max(axis=2)
        return lambda source, target: np.maximum(up[source, self._class(target)], down[target, self._class(source)])

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds from end to end of each pair, see `Routes`."""
        up, down = at(self.links.latency, self.up).max(axis=1), at(self.links.latency, self.down).max(axis=1)
        return np.where(source == target, 0.0, up[source] + down[target])

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether a path exists for each pair."""
        common = (self.share.sum(axis=2) > 0)[self.class_of[source], self.class_of[target]]
        return (source == target) | (common & (self.domain[source] == self.domain[target]))

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share) of every link that each of the pairs [pairs] uses, see `Routes`."""
        share = self.share[self.class_of[source], self.class_of[target]] * (source != target)[:, None]
        pair, plane = np.nonzero(share)
        part = share[pair, plane]
        links = np.concatenate([self.up[source[pair], plane], self.down[target[pair], plane]])
        return np.tile(pair, 2), links, np.tile(part, 2)

    def _class(self, rank: np.ndarray) -> np.ndarray:
        """Class of each rank; a plain 0 where there is one class only, so that sums stay row sums."""
        return np.zeros(1, dtype=np.int64) if self.share.shape[0] == 1 else self.class_of[rank]


def crossbar(cluster: Cluster, links: Links) -> Crossbar:
    """Find the ports of every device: its neighbours of kind ``switch``, in the order of their names' numbers."""
    graph, ranks = cluster.graph, cluster.ranks
    planes: dict[int, list[str]] = {}
    for device, domain in zip(cluster.devices, cluster.domain.tolist(), strict=True):
        known = planes.setdefault(domain, [])
        around = [*graph.successors(device), *graph.predecessors(device)]
        known.extend(n for n in dict.fromkeys(around) if graph.nodes[n].get("kind") == "switch" and n not in known)
    width = max((len(known) for known in planes.values()), default=0)
    up, down = np.full((ranks, width), -1), np.full((ranks, width), -1)
    for rank, (device, domain) in enumerate(zip(cluster.devices, cluster.domain.tolist(), strict=True)):
        for plane, switch in enumerate(sorted(planes[domain], key=number_order)):
            up[rank, plane] = links.id(device, switch)
            down[rank, plane] = links.id(switch, device)
    alive = np.concatenate([up >= 0, down >= 0], axis=1)
    classes, class_of = np.unique(alive, axis=0, return_inverse=True)
    common = (classes[:, None, :width] & classes[None, :, width:]).astype(float)
    count = common.sum(axis=2, keepdims=True)
    share = np.divide(common, count, out=np.zeros_like(common), where=count > 0)
    return Crossbar(links, up, down, np.asarray(cluster.domain), class_of.reshape(-1), share)


def number_order(name: str) -> tuple:
    """Order names by the numbers in them: nvlink0.2 before nvlink0.10."""
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return tuple(int(d) for d in digits), name
