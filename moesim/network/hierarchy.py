"""Scale-up domains joined by a scale-out network of NICs, leaf and spine switches.

Inside a domain traffic takes the domain's planes (`moesim.network.crossbar`). Between domains it leaves through a NIC.
With ``forwarding`` (NCCL's PXN and DeepEP's normal kernels) a message whose target hangs on another rail first crosses
NVLink to the rank of its own domain that has the target's rail, so that it passes one leaf; without, it leaves through
its own NIC and crosses the spine. Between two leaves traffic spreads evenly over the spines that both reach
(``adaptive`` routing, packet spraying) or each pair of ranks sticks to one of them by a hash (``ecmp``). What a dead
NIC would have carried takes those of its siblings (`moesim.network.detours`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Cluster
from moesim.network.crossbar import Crossbar, crossbar, number_order
from moesim.network.detours import Detours, detours
from moesim.network.links import Links, Lookup, accumulate, at, nic_ports, onto
from moesim.network.mesh import Mesh, mesh

SPREADINGS = ("adaptive", "ecmp")


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """Two-level routes.

    inside: routes within the domains. rail, place: [ranks] rail and position in the domain. relay: [domains, places]
    the rank of a domain that forwards to a target at a place. out: [ranks, 2] links device → NIC → leaf, back: leaf →
    NIC → device, −1 = none. leaf: [ranks]. rise, fall: [leaves, spines] links. share: [leaf, leaf, spines] part of the
    traffic between two leaves that takes each spine when spread evenly. ecmp: pairs stick to one spine. detours: ways
    round dead NICs, None where all live.
    """

    links: Links
    inside: Crossbar | Mesh
    domain: np.ndarray
    rail: np.ndarray
    place: np.ndarray
    relay: np.ndarray
    out: np.ndarray
    back: np.ndarray
    leaf: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    share: np.ndarray
    ecmp: bool
    detours: Detours | None = None

    @property
    def complete(self) -> bool:
        """Whether every rank reaches every other."""
        joined = len(self.rise) < 2 or (self.share.size > 0 and (self.share.sum(axis=2) > 0).all())
        ports = (self.out >= 0).all() and (self.back >= 0).all()
        return bool(joined and ports and self.inside.complete_within)

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes on each link, see `Routes`."""
        leaving = self.domain[source] != self.domain[target]
        via, entry = self._via(source, target)
        near = np.where(via == source, 0.0, traffic)
        load = self.inside.load(source, via, near)
        if entry is not target:
            load += self.inside.load(entry, target, np.where(entry == target, 0.0, traffic))
        far = np.where(leaving, traffic, 0.0)
        ranks = len(self.domain)
        out, back = accumulate(via, far, ranks), accumulate(entry, far, ranks)
        load += onto(self.links, (self.out, np.stack([out, out], axis=1)), (self.back, np.stack([back, back], axis=1)))
        if not self.rise.size:
            return load
        leaves, spines = self.rise.shape
        first, last = self.leaf[via], self.leaf[entry]
        crossing = np.where(first != last, far, 0.0)
        if self.ecmp:
            spine = self._sticky(via, entry)
            rise = accumulate(first * spines + spine, crossing, self.rise.size).reshape(self.rise.shape)
            fall = accumulate(last * spines + spine, crossing, self.rise.size).reshape(self.rise.shape)
        else:
            between = accumulate(first * leaves + last, crossing, leaves * leaves).reshape(leaves, leaves)
            rise = np.einsum("ab,abs->as", between, self.share)
            fall = np.einsum("ab,abs->bs", between, self.share)
        return load + onto(self.links, (self.rise, rise), (self.fall, fall))

    def worst(self, value: np.ndarray) -> Lookup:
        """Largest value of a link on the way of pairs, see `Routes`."""
        inside = self.inside.worst(value)
        out, back = at(value, self.out).max(axis=1), at(value, self.back).max(axis=1)
        rise, fall = at(value, self.rise), at(value, self.fall)
        even = np.where(self.share > 0, np.maximum(rise[:, None], fall[None]), 0.0).max(axis=2, initial=0.0)

        def look_up(source: np.ndarray, target: np.ndarray) -> np.ndarray:
            via, entry = self._via(source, target)
            near = np.where(via == source, 0.0, inside(source, via))
            if entry is not target:
                near = np.maximum(near, np.where(entry == target, 0.0, inside(entry, target)))
            first, last = self.leaf[via], self.leaf[entry]
            over = even[first, last]
            if self.ecmp and self.rise.size:
                spine = self._sticky(via, entry)
                over = np.maximum(rise[first, spine], fall[last, spine])
            far = np.maximum(np.maximum(out[via], back[entry]), np.where(first != last, over, 0.0))
            return np.where(self.domain[source] != self.domain[target], np.maximum(near, far), near)

        return look_up

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds from end to end of each pair, see `Routes`."""
        via, entry = self._via(source, target)
        near = self.inside.latency(source, via)
        if entry is not target:
            near = near + self.inside.latency(entry, target)
        delay = self.links.latency
        far = at(delay, self.out).sum(axis=1)[via] + at(delay, self.back).sum(axis=1)[entry]
        if self.rise.size:
            first, last = self.leaf[via], self.leaf[entry]
            over = at(delay, self.rise).max(axis=1)[first] + at(delay, self.fall).max(axis=1)[last]
            far = np.where(first != last, far + over, far)
        return np.where(self.domain[source] != self.domain[target], near + far, near)

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether a path exists for each pair."""
        via, entry = self._via(source, target)
        near = self.inside.reachable(source, via) & self.inside.reachable(entry, target)
        far = (self.out >= 0).all(axis=1)[via] & (self.back >= 0).all(axis=1)[entry]
        first, last = self.leaf[via], self.leaf[entry]
        over = (self.share.sum(axis=2) > 0)[first, last] if self.rise.size else False
        return near & ((self.domain[source] == self.domain[target]) | (far & ((first == last) | over)))

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share) of every link that each of the pairs [pairs] uses, see `Routes`."""
        via, entry = self._via(source, target)
        parts = [self.inside.paths(source, via)]
        if entry is not target:
            parts += [self.inside.paths(entry, target)]
        pair = np.flatnonzero(self.domain[source] != self.domain[target])
        for ids in (self.out[via[pair]], self.back[entry[pair]]):
            parts += [(pair, ids[:, hop], np.ones(len(pair))) for hop in range(2)]
        if self.rise.size:
            first, last = self.leaf[via[pair]], self.leaf[entry[pair]]
            share = self.share[first, last]
            if self.ecmp:
                share = np.eye(self.rise.shape[1])[self._sticky(via[pair], entry[pair])]
            row, spine = np.nonzero(share * (first != last)[:, None])
            parts += [(pair[row], self.rise[first[row], spine], share[row, spine])]
            parts += [(pair[row], self.fall[last[row], spine], share[row, spine])]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _via(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks at which each message ends its way inside the source's domain, and begins that inside the target's.

        The first is the target itself, a relay, or the source; the second is the target unless its NIC is dead.
        """
        relay = self.relay[self.domain[source], self.place[target]]
        relay = np.where(self.rail[source] == self.rail[target], source, relay)
        via = np.where(self.domain[source] == self.domain[target], target, relay)
        return (via, target) if self.detours is None else self.detours.around(source, target, via)

    def _sticky(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The spine that a hash gives each pair, among those that both leaves reach."""
        count = (self.share > 0).sum(axis=2)
        order = np.argsort(self.share <= 0, axis=2, kind="stable")
        first, last = self.leaf[source], self.leaf[target]
        return order[first, last, hashed(source, target) % np.maximum(count[first, last], 1)]


def hashed(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random integer ≥ 0 for each pair, as switches hash addresses (the finaliser of MurmurHash3)."""
    key = source.astype(np.uint64) << np.uint64(32) | target.astype(np.uint64)
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = (key ^ key >> np.uint64(33)) * np.uint64(multiplier)
    return (key >> np.uint64(33)).astype(np.int64)


def hierarchical(cluster: Cluster, links: Links) -> Hierarchy:
    """Routes of a cluster with one NIC a device.

    options: spreading (``adaptive`` or ``ecmp``), forwarding (true), scale_up (``mesh`` where the devices of a domain
    are joined by links of their own, else they meet at switches).
    """
    spreading = cluster.options.get("spreading", "adaptive")
    if spreading not in SPREADINGS:
        message = f"{spreading!r} is not a way to spread traffic; write {' or '.join(SPREADINGS)}"
        raise InvalidInput(Problem(message, field="spreading"))
    domain = np.asarray(cluster.domain)
    place = _place_in(domain)
    out, back, leaf_names = nic_ports(cluster, links)
    leaves = sorted(set(leaf_names) - {""}, key=number_order)
    leaf = np.array([leaves.index(name) if name else 0 for name in leaf_names])  # of a dead NIC any: nothing goes there
    forwarding = cluster.options.get("forwarding", True)
    rail = _rails(leaf_names, place) if forwarding else np.zeros_like(domain)
    rise, fall = _spines(cluster, links, leaves)
    common = ((rise >= 0)[:, None, :] & (fall >= 0)[None, :, :]).astype(float)
    count = common.sum(axis=2, keepdims=True)
    share = np.divide(common, count, out=np.zeros_like(common), where=count > 0)
    inside = (mesh if cluster.options.get("scale_up") == "mesh" else crossbar)(cluster, links)
    relay = _relays(domain, place, rail)
    ecmp = spreading == "ecmp"
    around = detours(domain, place, out, back, leaf, share)
    return Hierarchy(links, inside, domain, rail, place, relay, out, back, leaf, rise, fall, share, ecmp, around)


def _rails(leaves: list[str], place: np.ndarray) -> np.ndarray:
    """The rail [ranks] by the name of its leaf, ``leaf{unit}.{rail}``; of a dead NIC as of others at its place."""
    rail = np.array([int(leaf.rpartition(".")[2]) if leaf else -1 for leaf in leaves])
    of_place = np.full(int(place.max()) + 1, -1)
    np.maximum.at(of_place, place, rail)
    return np.where(rail < 0, of_place[place], rail)


def _relays(domain: np.ndarray, place: np.ndarray, rail: np.ndarray) -> np.ndarray:
    """[domains, places] rank of each domain that forwards to targets at a place: the same place, else the same rail."""
    rail_of_place = rail[np.unique(place, return_index=True)[1]]
    relay = np.empty((domain.max() + 1, len(rail_of_place)), dtype=np.int64)
    for d in range(len(relay)):
        members = np.flatnonzero(domain == d)
        for target_place, wanted in enumerate(rail_of_place):
            fitting = members[rail[members] == wanted]
            straight = members[place[members] == target_place]
            both = np.intersect1d(fitting, straight)
            choice = both if both.size else fitting if fitting.size else members
            relay[d, target_place] = choice[target_place % choice.size] if choice.size else -1
    return relay


def _place_in(domain: np.ndarray) -> np.ndarray:
    """Position [ranks] of each rank among those of its domain."""
    place = np.empty_like(domain)
    for d in np.unique(domain):
        place[domain == d] = np.arange((domain == d).sum())
    return place


def _spines(cluster: Cluster, links: Links, leaves: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Links leaf → spine and spine → leaf [leaves, spines]."""
    graph = cluster.graph
    around = {s for leaf in leaves for s in graph.successors(leaf) if graph.nodes[s].get("kind") == "switch"}
    spines = sorted(around, key=number_order)
    shape = (len(leaves), len(spines))
    rise = np.array([links.id(leaf, spine) for leaf in leaves for spine in spines], dtype=np.int64).reshape(shape)
    fall = np.array([links.id(spine, leaf) for leaf in leaves for spine in spines], dtype=np.int64).reshape(shape)
    return rise, fall
