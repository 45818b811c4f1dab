"""A cluster: the devices of a job as nodes of a directed graph whose edges are the links.

Builders (one fabric a function) live beside this file; they all hand on a `Cluster`, and nothing above asks which
builder made it, except through the attributes below.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from moesim.hardware.device import Hardware


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Ranks on a topology graph.

    graph: a `networkx.DiGraph`; every edge has ``capacity`` (bytes/s, one direction), ``latency`` (s) and ``kind``
        (``nvlink``, ``infiniband``, ``ici``, ``pcie`` …); every node has ``kind`` (``device``, ``switch``, ``nic`` …).
    devices: [ranks] graph node of each rank.
    node: [ranks] index of the server (NVLink tray, TPU host) that holds the rank.
    domain: [ranks] index of the scale-up domain (NVLink domain, TPU slice) that holds the rank.
    routing: how traffic finds its way, a key of `moesim.network.routes.ROUTINGS`: ``crossbar``, ``hierarchical``,
        ``dimension_order`` or ``shortest``.
    options: what that routing needs (torus ``shape`` and ``wrap``, spreading over equal paths …), as the docstring of
        the builder in `moesim.hardware.fabrics` says.
    """

    name: str
    hardware: Hardware
    graph: nx.DiGraph
    devices: tuple[str, ...]
    node: np.ndarray
    domain: np.ndarray
    routing: str
    options: dict = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Number of devices."""
        return len(self.devices)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a link: bytes/s and seconds."""

    bytes_per_s: float
    latency_s: float


# Kinds of links a graph may have; `xgmi` is AMD's Infinity Fabric, `ici` Google's inter-chip interconnect.
LINK_KINDS = ("nvlink", "xgmi", "pcie", "infiniband", "ethernet", "ici")


def device_names(count: int) -> list[str]:
    """Graph nodes of the ranks: ``device0``, ``device1`` …"""
    return [f"device{rank}" for rank in range(count)]


def connect(graph: nx.DiGraph, pairs: Iterable[tuple[str, str]], link: Link, kind: str) -> None:
    """Add every pair as two directed edges, one each way, of the same capacity (bytes/s), latency (s) and kind."""
    pairs = list(pairs)
    attributes = {"capacity": link.bytes_per_s, "latency": link.latency_s, "kind": kind}
    graph.add_edges_from(pairs, **attributes)
    graph.add_edges_from(((b, a) for a, b in pairs), **attributes)


def injection_bandwidth(cluster: Cluster, kind: str) -> float:
    """Bytes/s that all devices together can send into links of one kind."""
    ends = cluster.graph.out_edges(cluster.devices, data=True)
    return sum(data["capacity"] for _, _, data in ends if data["kind"] == kind)


def cut_bandwidth(cluster: Cluster, inside: Iterable[int]) -> float:
    """Bytes/s from the ranks `inside` straight to the other devices: the bisection of a fabric without switches."""
    members = {cluster.devices[rank] for rank in inside}
    others = set(cluster.devices) - members
    ends = cluster.graph.out_edges(members, data="capacity")
    return sum(capacity for _, target, capacity in ends if target in others)
