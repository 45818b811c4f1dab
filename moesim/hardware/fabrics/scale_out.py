"""What joins scale-up domains: one NIC a device, rails of leaf switches, and spines above them.

Rail i of a scalable unit is one leaf that serves device i of each of its servers (NVIDIA DGX SuperPOD reference
architectures). A leaf has uplinks to every spine, or only to the spines of its own rail (the multi-plane fat tree of
DeepSeek's H800 cluster, "Insights into DeepSeek-V3", ISCA 2025, section 5.1). Two tiers are modelled whatever the size;
a real fabric above about 2,000 ports has a third, which adds two hops and, not oversubscribed, no bottleneck.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import networkx as nx
import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.topology import Link, connect


@dataclass(frozen=True, slots=True)
class ScaleOut:
    """Leaf/spine network between servers.

    nic: bytes/s of one device's NIC, and seconds that a small message takes from device to device under one leaf.
    pcie_bytes_per_s: link between a device and its NIC. spine_latency_s: seconds that crossing a spine adds.
    unit: servers under one leaf. radix: ports of a spine. oversubscription: capacity of a leaf downwards over upwards.
    kind: ``infiniband`` or ``ethernet``.
    spines: ``shared`` by all rails, or ``per_rail`` (another rail is reached by forwarding in the server).
    spreading: over spines, ``adaptive`` (evenly) or ``ecmp`` (each pair on one spine, by hash).
    forwarding: traffic for another rail first moves, inside the scale-up domain, to the device on that rail.
    """

    nic: Link
    pcie_bytes_per_s: float
    spine_latency_s: float
    unit: int
    radix: int
    oversubscription: float = 1.0
    kind: str = "infiniband"
    spines: str = "shared"
    spreading: str = "adaptive"
    forwarding: bool = True


def add_scale_out(
    graph: nx.DiGraph, devices: list[str], server: np.ndarray, rail: np.ndarray, scale_out: ScaleOut
) -> None:
    """Add NICs, leaves and spines to a graph of devices. server, rail: [ranks] index of server, index in the server.

    The latency under one leaf is shared evenly by its four hops (device, NIC, leaf, NIC, device). A leaf's uplinks
    carry what its servers' NICs can send over the oversubscription: the share of the fabric that a job can count on.
    """
    _check(scale_out)
    hop = scale_out.nic.latency_s / 4
    nics = [f"nic{rank}" for rank in range(len(devices))]
    leaves = [f"leaf{unit}.{index}" for unit, index in zip(server // scale_out.unit, rail, strict=True)]
    graph.add_nodes_from(nics, kind="nic")
    graph.add_nodes_from(leaves, kind="switch")
    connect(graph, zip(devices, nics, strict=True), Link(scale_out.pcie_bytes_per_s, hop), "pcie")
    connect(graph, zip(nics, leaves, strict=True), Link(scale_out.nic.bytes_per_s, hop), scale_out.kind)

    planes = int(rail.max()) + 1 if scale_out.spines == "per_rail" else 1
    spines_of_plane = max(1, round(len(devices) / planes / scale_out.radix))
    for leaf, servers in Counter(leaves).items():
        plane = int(leaf.rpartition(".")[2]) % planes
        spines = [f"spine{plane * spines_of_plane + index}" for index in range(spines_of_plane)]
        graph.add_nodes_from(spines, kind="switch")
        uplink = servers * scale_out.nic.bytes_per_s / scale_out.oversubscription / spines_of_plane
        connect(graph, ((leaf, spine) for spine in spines), Link(uplink, scale_out.spine_latency_s / 2), scale_out.kind)


def _check(scale_out: ScaleOut) -> None:
    problems = []
    for name in ("unit", "radix", "oversubscription"):
        value = getattr(scale_out, name)
        if value <= 0:
            problems.append(Problem(f"must be above zero, not {value}", f"options.{name}"))
    if scale_out.spines == "per_rail" and not scale_out.forwarding:
        problems.append(Problem("spines per rail need forwarding between rails; write true", "options.forwarding"))
    if problems:
        raise InvalidInput(problems)
