"""Scale-up domains whose devices are joined pairwise by links of their own (MI300X over xGMI): one hop, no switch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.topology import Cluster
from moesim.network.links import Links, Lookup, accumulate, at, onto


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Routes over direct links. direct: [ranks, places] link to the rank at a place of the own domain, −1 = none.

    domain, place: [ranks] domain and position in it.
    """

    links: Links
    domain: np.ndarray
    place: np.ndarray
    direct: np.ndarray

    @property
    def complete_within(self) -> bool:
        """Whether every rank reaches every other of its domain."""
        present = np.arange(self.direct.shape[1]) < np.bincount(self.domain)[self.domain][:, None]
        oneself = np.arange(self.direct.shape[1]) == self.place[:, None]
        return bool((self.direct >= 0)[present & ~oneself].all())

    @property
    def complete(self) -> bool:
        """Whether every rank reaches every other."""
        return self.complete_within and bool((self.domain == self.domain[0]).all())

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes on each link, see `Routes`."""
        pair = source * self.direct.shape[1] + self.place[target]
        return onto(self.links, (self.direct, accumulate(pair, traffic, self.direct.size)))

    def worst(self, value: np.ndarray) -> Lookup:
        """Largest value of a link on the way of pairs, see `Routes`."""
        direct = at(value, self.direct)
        return lambda source, target: direct[source, self.place[target]]

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds from end to end of each pair, see `Routes`."""
        return at(self.links.latency, self.direct)[source, self.place[target]]

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether a path exists for each pair."""
        joined = (self.direct[source, self.place[target]] >= 0) & (self.domain[source] == self.domain[target])
        return joined | (source == target)

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share) of every link that each of the pairs [pairs] uses, see `Routes`."""
        pair = np.flatnonzero(source != target)
        return pair, self.direct[source[pair], self.place[target[pair]]], np.ones(pair.size)


def mesh(cluster: Cluster, links: Links) -> Mesh:
    """Find the direct links between the devices of each domain."""
    domain = np.asarray(cluster.domain)
    place = np.empty_like(domain)
    direct = np.full((cluster.ranks, int(np.bincount(domain).max())), -1)
    for d in np.unique(domain):
        members = np.flatnonzero(domain == d)
        place[members] = np.arange(members.size)
        for rank in members.tolist():
            direct[rank, : members.size] = [links.id(cluster.devices[rank], cluster.devices[m]) for m in members]
    return Mesh(links, domain, place, direct)
