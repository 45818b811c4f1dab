"""Any graph: shortest paths, spread evenly over equally short ones or one of them by a hash.

Each pair's path is looked up once and kept as a row of a sparse matrix [pairs, links], so that traffic costs one sparse
product. Memory grows with pairs × hops: some hundred ranks, asymmetric and heterogeneous graphs, dead links.

What is short is ``metric``: ``hops``; ``latency`` (seconds); or ``transfer``, the seconds that 1 MB takes through the
links one after another, which prefers NVLink to an equally long way over PCIe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Cluster
from moesim.network.hierarchy import SPREADINGS, hashed
from moesim.network.links import Links, Lookup

TRANSFER_BYTES = 1e6  # of the `transfer` metric


@dataclass(frozen=True, slots=True, eq=False)
class Shortest:
    """Routes as a sparse matrix. matrix: scipy CSR [ranks², links], share of a pair's traffic on each link."""

    links: Links
    ranks: int
    matrix: object
    delay: np.ndarray
    found: np.ndarray
    complete: bool

    def load(self, source: np.ndarray, target: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """Bytes on each link, see `Routes`."""
        pair = np.broadcast_to(source * self.ranks + target, traffic.shape).ravel()
        return self.matrix.T @ np.bincount(pair, weights=traffic.ravel(), minlength=self.ranks**2)

    def worst(self, value: np.ndarray) -> Lookup:
        """Largest value of a link on the way of pairs, see `Routes`."""
        begin, counts = self.matrix.indptr[:-1], np.diff(self.matrix.indptr)
        largest = np.zeros(self.ranks**2)
        if self.matrix.nnz:
            used = np.append(value[self.matrix.indices], 0.0)
            largest = np.where(counts > 0, np.maximum.reduceat(used, begin), 0.0)
        return lambda source, target: largest[source * self.ranks + target]

    def latency(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Seconds from end to end of each pair, see `Routes`."""
        return self.delay[source * self.ranks + target]

    def reachable(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether a path exists for each pair."""
        return self.found[source * self.ranks + target]

    def paths(self, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pair, link, share) of every link that each of the pairs [pairs] uses, see `Routes`."""
        rows = self.matrix[source * self.ranks + target].tocoo()
        return rows.row, rows.col, rows.data


def shortest(cluster: Cluster, links: Links) -> Shortest:
    """Shortest paths between all devices. options: metric (``hops``), spreading (``even`` or ``ecmp``)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    metric, spreading = cluster.options.get("metric", "hops"), cluster.options.get("spreading", "adaptive")
    lengths = {
        "hops": np.ones(len(links.ends)),
        "latency": links.latency + 1e-12,  # links without latency still count as hops
        "transfer": links.latency + TRANSFER_BYTES / links.capacity,
    }
    problems = []
    if metric not in lengths:
        problems.append(Problem(f"{metric!r} is no metric; write one of {', '.join(lengths)}", field="metric"))
    if spreading not in SPREADINGS:
        message = f"{spreading!r} is not a way to spread traffic; write {' or '.join(SPREADINGS)}"
        problems.append(Problem(message, field="spreading"))
    if problems:
        raise InvalidInput(problems)
    nodes = {name: number for number, name in enumerate(cluster.graph)}
    tail = np.array([nodes[a] for a, _ in links.ends], dtype=np.int64)
    head = np.array([nodes[b] for _, b in links.ends], dtype=np.int64)
    length = lengths[metric]
    backwards = csr_array((length, (head, tail)), shape=(len(nodes), len(nodes)))
    device = np.array([nodes[name] for name in cluster.devices])
    distance = dijkstra(backwards, indices=device)  # [device, node]: from node to device
    matrix, delay = _all_paths(distance, device, tail, head, length, links, spreading == "ecmp")
    found = np.isfinite(distance[:, device]).T.ravel()
    return Shortest(links, cluster.ranks, matrix, delay, found, bool(found.all()))


def _all_paths(distance, device, tail, head, length, links, ecmp):
    """CSR [pairs, links] of traffic shares, and latency [pairs] of the longest path used."""
    from scipy.sparse import csr_array, vstack

    ranks, nodes = distance.shape
    columns, delay = [], np.zeros((ranks, ranks))
    for target in range(ranks):
        to = distance[target]
        with np.errstate(invalid="ignore"):
            slack = length + to[head] - to[tail]
        forward = np.flatnonzero(np.isfinite(to[tail]) & (np.abs(slack) <= 1e-9 * to[tail]))
        choices = np.bincount(tail[forward], minlength=nodes)
        if ecmp:
            rows, seconds = _walks(device, target, tail, head, forward, links)
        else:
            rows, seconds = _spreads(device, to, tail, head, forward, 1.0 / np.maximum(choices, 1), links)
        columns.append(rows)
        delay[:, target] = seconds
    # The matrices come one per target with a row per source; pairs are numbered by source first.
    stacked = vstack(columns, format="csr")
    order = np.arange(ranks * ranks).reshape(ranks, ranks).T.ravel()
    return csr_array(stacked[order]), delay.ravel()


def _spreads(device, to, tail, head, forward, part, links):
    """Shares [sources, links] when every node sends on evenly over its next hops, found from the target outwards."""
    from scipy.sparse import csr_array

    by_node: dict[int, list[int]] = {}
    for link in forward.tolist():
        by_node.setdefault(int(tail[link]), []).append(link)
    reach: dict[int, dict[int, float]] = {}
    latest: dict[int, float] = {}
    for node in np.argsort(to, kind="stable").tolist():
        shares: dict[int, float] = {}
        longest = 0.0
        for link in by_node.get(node, ()):
            ahead = int(head[link])
            shares[link] = shares.get(link, 0.0) + part[node]
            for further, share in reach[ahead].items():
                shares[further] = shares.get(further, 0.0) + share * part[node]
            longest = max(longest, links.latency[link] + latest[ahead])
        reach[node], latest[node] = shares, longest
    rows = [reach[int(d)] for d in device]
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([link for row in rows for link in row], dtype=np.int64)
    data = np.array([share for row in rows for share in row.values()])
    return csr_array((data, indices, indptr), shape=(len(device), len(links.ends))), [latest[int(d)] for d in device]


def _walks(device, target, tail, head, forward, links):
    """Shares [sources, links] when every source follows one shortest path; nodes choose next hops by a hash."""
    from scipy.sparse import csr_array

    by_node: dict[int, list[int]] = {}
    for link in forward.tolist():
        by_node.setdefault(int(tail[link]), []).append(link)
    indices, indptr, seconds = [], [0], []
    for source, start in enumerate(device.tolist()):
        node, delay = start, 0.0
        while node != device[target] and node in by_node:
            onward = by_node[node]
            pick = hashed(np.array([source * len(device) + target]), np.array([node]))[0] % len(onward)
            indices.append(onward[pick])
            delay += links.latency[onward[pick]]
            node = int(head[onward[pick]])
        indptr.append(len(indices))
        seconds.append(delay)
    shape = (len(device), len(links.ends))
    return csr_array((np.ones(len(indices)), np.array(indices, dtype=np.int64), indptr), shape=shape), seconds
