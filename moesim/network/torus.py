"""Tori and meshes of any number of dimensions, routed in dimension order.

A message first travels along the first dimension to the coordinate of its target, then along the second, and so on
(Dally & Towles, "Principles and Practices of Interconnection Networks", section 8.4.2; Google's TPUs do the same). On
its ring it takes the shorter way; at equal distance half goes each way (``ties: split``) or all upwards (``one_way``).

All pairs that travel the same stretch of the same ring are added up first, so a dimension costs one histogram over
pairs and one product with a table of [stretch, link], and no array of pairs × links ever exists. A link that is
missing, be it the wrap-around link of a mesh or a dead one, blocks the stretches that cross it: they go the other way
round, and where that is blocked too the pair is unreachable.

Between slices (tori that share no links) messages leave by the chip's NIC and the switch that all NICs hang on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Cluster
from moesim.network.links import Links, Lookup, accumulate, at, nic_ports, onto
from moesim.network.rings import Dimension, dimension_of, stretch_tables


@dataclass(frozen=True, slots=True, eq=False)
class Torus:
    """Dimension-order routes.

    shape: positions in each dimension. coordinates: [ranks, dimensions]. slice_of: [ranks]. out, back: [ranks, 2] links
    device → NIC → switch and back, −1 = none. delays: for each dimension seconds along each stretch.
    """

    links: Links
    shape: tuple[int, ...]
    coordinates: np.ndarray
    slice_of: np.ndarray
    dimensions: tuple[Dimension, ...]
    out: np.ndarray
    back: np.ndarray
    delays: Sequence[np.ndarray]
    complete: bool

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes on each link, see `Routes`."""
        load = np.zeros(len(self.links.ends) + 1)
        away = self._away(source, target)
        if away is not None:
            ranks, far = len(self.slice_of), np.where(away, traffic, 0.0)
            sent, received = accumulate(source, far, ranks), accumulate(target, far, ranks)
            load[:-1] = onto(self.links, (self.out, np.stack([sent] * 2, 1)), (self.back, np.stack([received] * 2, 1)))
            traffic = np.where(away, 0.0, traffic)
        slices = self._slices(source)
        for d in self.dimensions:
            rows, begin, size = d.rows(slices)
            stretch = accumulate((d.lead[source] - begin) + d.tail[target], traffic, size).reshape(-1, d.n * d.n)
            for ids, share, crossed in d.ways():
                load[ids[rows]] += (stretch * share[rows]) @ crossed  # ids of a way differ, but for the −1 at the end
        return load[:-1]

    def worst(self, value: np.ndarray) -> Lookup:
        """Largest value of a link on the way of pairs, see `Routes`."""
        tables: dict[tuple[int, int], list[np.ndarray]] = {}  # made for the slices that are asked for
        out, back = at(value, self.out).max(axis=1), at(value, self.back).max(axis=1)

        def look_up(source: np.ndarray, target: np.ndarray) -> np.ndarray:
            slices = self._slices(source)
            if slices not in tables:
                tables[slices] = stretch_tables(self.dimensions, value, np.maximum, slices)
            near = self._over_dimensions(tables[slices], source, target, np.maximum, slices)
            away = self._away(source, target)
            return near if away is None else np.where(away, np.maximum(out[source], back[target]), near)

        return look_up

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds from end to end of each pair, see `Routes`."""
        delay, everything = self.links.latency, (0, int(self.slice_of[-1]) + 1)
        near = self._over_dimensions(self.delays, source, target, np.add, everything)
        away = self._away(source, target)
        if away is None:
            return near
        far = at(delay, self.out).sum(axis=1)[source] + at(delay, self.back).sum(axis=1)[target]
        return np.where(away, far, near)

    def _over_dimensions(
        self,
        tables: Sequence[np.ndarray],
        source: np.ndarray,
        target: np.ndarray,
        combine: np.ufunc,
        slices: tuple[int, int],
    ) -> np.ndarray:
        """Combine what the tables of some slices say about the stretches of each pair."""
        result = np.zeros(np.broadcast_shapes(source.shape, target.shape))
        for d, table in zip(self.dimensions, tables, strict=True):
            combine(result, table[(d.lead[source] - d.rows(slices)[1]) + d.tail[target]], out=result)
        return result

    def _slices(self, source: np.ndarray) -> tuple[int, int]:
        """The first slice of the sources, and the one after their last: stretches belong to the source's slice."""
        return int(self.slice_of[source.min()]), int(self.slice_of[source.max()]) + 1

    def _away(self, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
        """Pairs in different slices; None if there are none."""
        if self.slice_of[-1] == 0:
            return None
        away = self.slice_of[source] != self.slice_of[target]
        return away if away.any() else None

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether the dimension-order path of each pair is open."""
        within = self.slice_of[source] == self.slice_of[target]
        beyond = (self.out >= 0).all(axis=1)[source] & (self.back >= 0).all(axis=1)[target]
        for d in self.dimensions:
            going = (d.share_up + d.share_down > 0) | ~d.crossed_up.any(axis=1)
            within = within & going.ravel()[d.lead[source] + d.tail[target]]
        return within | (beyond & (self.slice_of[source] != self.slice_of[target]))

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share) of every link that each of the pairs [pairs] uses, see `Routes`."""
        away = np.flatnonzero(self.slice_of[source] != self.slice_of[target])
        here = np.flatnonzero(self.slice_of[source] == self.slice_of[target])
        parts = [
            (away, ids[:, hop], np.ones(away.size))
            for ids in (self.out[source[away]], self.back[target[away]])
            for hop in range(2)
        ]
        source, target = source[here], target[here]
        for d in self.dimensions:
            ring, stretch = np.divmod(d.lead[source] + d.tail[target], d.crossed_up.shape[0])
            for ids, share, crossed in d.ways():
                part = share[ring, stretch]
                pair, position = np.nonzero(crossed[stretch] & (part > 0)[:, None])
                parts.append((here[pair], ids[ring[pair], position], part[pair]))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def dimension_order(cluster: Cluster, links: Links) -> Torus:
    """Routes of a cluster whose devices fill tori of ``options["shape"]`` slice by slice, last dimension fastest.

    options: shape; ties (``split`` or ``one_way``). Raises InvalidInput when the shape does not hold the devices or
    when the graph joins devices that are not neighbours.
    """
    shape = tuple(int(n) for n in cluster.options["shape"])
    ties = cluster.options.get("ties", "split")
    size = int(np.prod(shape))
    problems = []
    if ties not in ("split", "one_way"):
        problems.append(Problem(f"{ties!r} is not a way to break ties; write split or one_way", field="ties"))
    if size == 0 or cluster.ranks % size:
        message = f"{'×'.join(map(str, shape))} holds {size} devices, and {cluster.ranks} is no multiple of it"
        problems.append(Problem(message, field="shape"))
    if problems:
        raise InvalidInput(problems)
    local = np.arange(cluster.ranks) % size
    coordinates = np.stack(np.unravel_index(local, shape), axis=1)
    slice_of = np.arange(cluster.ranks) // size
    dimensions = tuple(
        dimension_of(cluster, links, shape, coordinates, slice_of, axis, ties)
        for axis in range(len(shape))
        if shape[axis] > 1
    )
    _check_neighbours(links, dimensions)
    going_everywhere = all(((d.share_up + d.share_down > 0) | ~d.crossed_up.any(axis=1)).all() for d in dimensions)
    out, back, _ = nic_ports(cluster, links)
    joined = cluster.ranks == size or bool((out >= 0).all() and (back >= 0).all())
    delays = stretch_tables(dimensions, links.latency, np.add, (0, cluster.ranks // size))
    return Torus(
        links, shape, coordinates, slice_of, dimensions, out, back, delays, complete=bool(going_everywhere and joined)
    )


def _check_neighbours(links: Links, dimensions: tuple[Dimension, ...]) -> None:
    known = {int(i) for d in dimensions for i in np.unique(np.concatenate([d.up.ravel(), d.down.ravel()]))}
    stray = [links.ends[i] for i in range(len(links.ends)) if i not in known and links.kind[i] == "ici"]
    if stray:
        a, b = stray[0]
        raise InvalidInput(
            f"{len(stray)} links join devices that are no neighbours in the shape, the first {a} → {b}; number the "
            "devices row by row, last dimension fastest, or use routing: shortest"
        )
