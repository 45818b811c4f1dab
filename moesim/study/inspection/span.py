"""What groups of ranks stay inside, in words."""

from __future__ import annotations

import numpy as np

from moesim.hardware.topology import Cluster


def span(cluster: Cluster, groups: np.ndarray) -> str:
    """What the groups [group, member] stay inside, in words: a node, a scale-up domain, axes of a torus, or neither."""
    if "shape" in cluster.options:
        return _axes_of_torus(cluster, groups)
    nodes, domains = cluster.node[groups], cluster.domain[groups]
    if (nodes == nodes[:, :1]).all():
        return "inside a node"
    local = local_index(cluster.node)
    if (domains == domains[:, :1]).all():
        return f"inside a scale-up domain of {np.bincount(cluster.domain).max()}, over {_count(nodes, 'node')}"
    rails = ", one local rank each (a rail)" if _one_each(nodes) and _alike(local[groups]) else ""
    if (np.bincount(cluster.domain) > np.bincount(cluster.node).max()).any():
        return f"over {_count(domains, 'scale-up domain')}, {_count(nodes, 'node')}{rails}"
    return f"over {_count(nodes, 'node')}{rails}"


def local_index(node: np.ndarray) -> np.ndarray:
    """[rank] place of each rank among those of its node."""
    order = np.argsort(node, kind="stable")
    first, size = np.unique(node[order], return_index=True, return_counts=True)[1:]
    place = np.empty(node.size, dtype=int)
    place[order] = np.arange(node.size) - np.repeat(first, size)
    return place


def _axes_of_torus(cluster: Cluster, groups: np.ndarray) -> str:
    shape = cluster.options["shape"]
    chips = int(np.prod(shape))
    places = np.stack(np.unravel_index(groups % chips, shape), axis=-1)  # [group, member, axis]
    varying = [axis for axis in range(len(shape)) if (places[..., axis] != places[:, :1, axis]).any()]
    names = " and ".join(f"axis {axis} ({shape[axis]})" for axis in varying) or "one chip"
    slices = np.unique(groups // chips, axis=None).size if (groups // chips != (groups // chips)[:, :1]).any() else 0
    nodes = cluster.node[groups]
    words = f"along {names} of the torus {' × '.join(map(str, shape))}"
    words += ", inside a node" if (nodes == nodes[:, :1]).all() else ""
    return words + (f", over {slices} slices" if slices else "")


def _count(labels: np.ndarray, noun: str) -> str:
    """How many distinct labels the rows have: a number or a range."""
    counts = sorted({np.unique(row).size for row in labels})
    text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} {noun}{'' if text == '1' else 's'}"


def _one_each(nodes: np.ndarray) -> bool:
    return all(np.unique(row).size == row.size for row in nodes)


def _alike(local: np.ndarray) -> bool:
    return bool((local == local[:, :1]).all())
