"""The links of a cluster as arrays, and the one summation that every routing is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Cluster

Lookup = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (source, target) -> one value a pair
BLOCK = 1 << 17  # pairs handled at once: their temporaries stay in the cache and far below 300 MB


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Directed links, all fields [links].

    ends: (from, to) node names. kind: ``nvlink``, ``ici`` …; capacity: bytes/s; latency: s. index: link id by its ends.
    of_kind: ids of the links of each kind.
    A link that is missing from the graph is a dead one: routings look here and go round it.
    """

    ends: tuple[tuple[str, str], ...]
    kind: tuple[str, ...]
    capacity: np.ndarray
    latency: np.ndarray
    index: dict[tuple[str, str], int]
    of_kind: dict[str, np.ndarray]

    def id(self, source: str, target: str) -> int:
        """Id of the link from one node to the other, −1 if there is none."""
        return self.index.get((source, target), -1)


def read_links(cluster: Cluster) -> Links:
    """All edges of the cluster's graph, in the graph's order.

    Raises InvalidInput naming every device that is not a node of the graph, and every link without a positive finite
    capacity (bytes/s) or without a latency (s).
    """
    graph = cluster.graph
    problems = [
        Problem(f"device {device!r} is not a node of the graph", field="devices")
        for device in cluster.devices
        if device not in graph
    ]
    if len(set(cluster.devices)) < len(cluster.devices):
        problems.append(Problem("the same device is listed twice; one rank is one device", field="devices"))
    ends, kinds, capacity, latency = [], [], [], []
    for source, target, link in graph.edges(data=True):
        name = f"link {source} → {target}"
        if not np.isfinite(link.get("capacity", np.nan)) or link["capacity"] <= 0:
            found = link.get("capacity", "none")
            message = f"capacity is {found}; write bytes per second above 0, or leave a dead link out of the graph"
            problems.append(Problem(message, field=name))
        if not np.isfinite(link.get("latency", np.nan)) or link["latency"] < 0:
            problems.append(Problem(f"latency is {link.get('latency', 'none')}; write seconds, 0 or more", field=name))
        ends.append((source, target))
        kinds.append(link.get("kind", ""))
        capacity.append(link.get("capacity", np.nan))
        latency.append(link.get("latency", np.nan))
    if problems:
        raise InvalidInput(problems)
    index = {pair: number for number, pair in enumerate(ends)}
    codes, of_link = np.unique(np.array(kinds, dtype=str), return_inverse=True)
    of_kind = {str(kind): np.flatnonzero(of_link == code) for code, kind in enumerate(codes)}
    numbers = (np.array(values, dtype=float) for values in (capacity, latency))
    return Links(tuple(ends), tuple(kinds), *numbers, index, of_kind)


def accumulate(index: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Sum of weights [size] by index, which broadcasts against weights.

    Axes along which the index does not vary (length 1) are summed first, so that a matrix of pairs indexed by its
    sources alone costs a row sum.
    """
    index = np.asarray(index)
    if index.ndim < weights.ndim:
        index = index.reshape((1,) * (weights.ndim - index.ndim) + index.shape)
    constant = tuple(a for a in range(weights.ndim) if index.shape[a] == 1 and weights.shape[a] > 1)
    if constant:
        weights = weights.sum(axis=constant, keepdims=True)
    if index.shape != weights.shape:
        index = np.broadcast_to(index, weights.shape)
    return np.bincount(index.ravel(), weights=weights.ravel(), minlength=size)


def at(value: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Value of links by id, 0 where the id is −1."""
    return np.append(value, 0.0)[ids]


def onto(links: Links, *parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Sum (ids, bytes) parts into one load vector [links]; ids of −1 carry nothing."""
    load = np.zeros(len(links.ends) + 1)
    for ids, amount in parts:
        np.add.at(load, ids.ravel(), amount.ravel())
    return load[:-1]


def nic_ports(cluster: Cluster, links: Links) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Links device → NIC → switch and back [ranks, 2], and the switch of each rank ('' where there is none)."""
    graph, out, back, switches = cluster.graph, [], [], []
    for device in cluster.devices:
        nic = next((n for n in graph.successors(device) if graph.nodes[n].get("kind") == "nic"), "")
        switch = next((n for n in graph.successors(nic) if graph.nodes[n].get("kind") == "switch"), "") if nic else ""
        switches.append(switch)
        out.append((links.id(device, nic), links.id(nic, switch)))
        back.append((links.id(switch, nic), links.id(nic, device)))
    return np.array(out), np.array(back), switches


def blocks(source: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple]:
    """Cut broadcast pairs into pieces of at most about `BLOCK` pairs along the leading axes.

    Yields (source, target, slice of the first axis, slice of the second axis or ()); source and target have as many
    axes as `shape`.
    """
    inner = int(np.prod(shape[1:], dtype=np.int64))
    if inner <= BLOCK or len(shape) < 3:
        step = max(1, BLOCK // max(inner, 1))
        for begin in range(0, shape[0], step):
            rows = slice(begin, begin + step)
            yield _cut(source, rows, 0), _cut(target, rows, 0), (rows,)
        return
    step = max(1, BLOCK // max(int(np.prod(shape[2:], dtype=np.int64)), 1))
    for first in range(shape[0]):
        group = slice(first, first + 1)
        for begin in range(0, shape[1], step):
            rows = slice(begin, begin + step)
            yield (
                _cut(_cut(source, group, 0), rows, 1),
                _cut(_cut(target, group, 0), rows, 1),
                (group, rows),
            )


def _cut(array: np.ndarray, part: slice, axis: int) -> np.ndarray:
    if array.shape[axis] == 1:
        return array
    return array[part] if axis == 0 else array[:, part]
