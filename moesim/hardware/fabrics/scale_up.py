"""Scale-up domains: NVLink behind switch planes, a full mesh, PCIe roots, and a single device.

More devices than one domain holds are joined by `scale_out`. A job that spans domains fills them evenly with whole
servers, at least half full: 128 devices on NVL72 racks are 2 x 64.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import networkx as nx
import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics.scale_out import ScaleOut, add_scale_out
from moesim.hardware.topology import Cluster, Link, connect, device_names


def nvlink(
    hardware: Hardware,
    devices: int,
    *,
    domain: int,
    server: int,
    planes: int,
    link: Link,
    scale_out: ScaleOut | None = None,
) -> Cluster:
    """GPUs behind NVLink switches: 8-GPU nodes, or NVL72 racks.

    domain: devices behind one set of switches. server: devices of one server (8 in an HGX node, 4 in an NVL72 tray).
    planes: NVLink switches; a device has an equal share of its links on each. link: one device into all planes, bytes/s
    one way, and seconds from device to device through a switch.

    Routing is ``crossbar`` inside one domain, else ``hierarchical`` with the options ``scale_up`` (``switch``),
    ``spreading`` and ``forwarding`` (see `ScaleOut`).
    """

    def wire(graph: nx.DiGraph, index: int, members: list[str]) -> None:
        switches = [f"nvlink{index}.{plane}" for plane in range(planes)]
        graph.add_nodes_from(switches, kind="switch")
        share = Link(link.bytes_per_s / planes, link.latency_s / 2)
        connect(graph, ((member, switch) for member in members for switch in switches), share, "nvlink")

    return _domains(hardware, devices, domain, server, wire, scale_out)


def full_mesh(
    hardware: Hardware,
    devices: int,
    *,
    domain: int,
    link: Link,
    kind_of_link: str = "xgmi",
    scale_out: ScaleOut | None = None,
) -> Cluster:
    """Devices of a node with one link for each pair and no switch (MI300X). link: one pair, one way.

    Routing is ``shortest`` in one node, else ``hierarchical`` with the options of `nvlink` and ``scale_up: mesh``.
    """

    def wire(graph: nx.DiGraph, index: int, members: list[str]) -> None:
        connect(graph, combinations(members, 2), link, kind_of_link)

    return _domains(hardware, devices, domain, domain, wire, scale_out, alone="shortest", scale_up="mesh")


def pcie(
    hardware: Hardware,
    devices: int,
    *,
    domain: int,
    link: Link,
    scale_out: ScaleOut | None = None,
) -> Cluster:
    """Nodes whose devices meet only at a PCIe root ``pcie{node}``. link: one device to the root, one way, and seconds
    from device to device through it.

    Routing is ``crossbar`` inside one node, else ``hierarchical`` with the options of `nvlink`.
    """

    def wire(graph: nx.DiGraph, index: int, members: list[str]) -> None:
        graph.add_node(f"pcie{index}", kind="switch")
        hop = Link(link.bytes_per_s, link.latency_s / 2)
        connect(graph, ((member, f"pcie{index}") for member in members), hop, "pcie")

    return _domains(hardware, devices, domain, domain, wire, scale_out)


def single(hardware: Hardware, devices: int) -> Cluster:
    """One device and no links; routing is ``shortest``."""
    if devices != 1:
        raise InvalidInput(Problem(f"{hardware.name} is one device, not {devices}; write 1", "devices"))
    graph = nx.DiGraph()
    graph.add_node("device0", kind="device")
    zero = np.zeros(1, dtype=np.int64)
    return Cluster(f"1 x {hardware.name}", hardware, graph, ("device0",), zero, zero, "shortest")


def domain_size(devices: int, domain: int, server: int) -> int | None:
    """Devices of each domain when `devices` fill domains evenly with whole servers, or None where they cannot."""
    if devices <= domain:
        return devices if devices > 0 else None
    fewest = -(-devices // domain)
    for count in range(fewest, 2 * fewest + 1):
        size, rest = divmod(devices, count)
        if rest == 0 and size % server == 0 and 2 * size >= domain:
            return size
    return None


def _domains(
    hardware: Hardware,
    devices: int,
    domain: int,
    server: int,
    wire: Callable[[nx.DiGraph, int, list[str]], None],
    scale_out: ScaleOut | None,
    *,
    alone: str = "crossbar",
    scale_up: str = "switch",
) -> Cluster:
    """Cut the ranks into domains, wire each of them and join them where there are several.

    wire: adds the links of one domain to the graph. alone: routing of one domain.
    """
    size = domain_size(devices, domain, server)
    if size is None:
        raise InvalidInput(Problem(_impossible(hardware, devices, domain, server), "devices"))
    rank = np.arange(devices)
    names = device_names(devices)
    graph = nx.DiGraph()
    graph.add_nodes_from(names, kind="device")
    for index, first in enumerate(range(0, devices, size)):
        wire(graph, index, names[first : first + size])
    name = f"{devices} x {hardware.name}"
    node, domain_of = rank // server, rank // size
    if size == devices:
        return Cluster(name, hardware, graph, tuple(names), node, domain_of, alone)
    if scale_out is None:
        message = f"missing; it has to join the {devices // size} domains of {devices} devices of {hardware.name}"
        raise InvalidInput(Problem(message, "topology.scale_out"))
    add_scale_out(graph, names, node, rank % server, scale_out)
    options = {"scale_up": scale_up, "spreading": scale_out.spreading, "forwarding": scale_out.forwarding}
    return Cluster(name, hardware, graph, tuple(names), node, domain_of, "hierarchical", options)


def _impossible(hardware: Hardware, devices: int, domain: int, server: int) -> str:
    if devices < 1:
        return f"{devices} is not a number of devices; write 1 to {domain}, or several domains of {domain}"

    def nearest(step: int) -> int:
        count = devices + step
        while count > 0 and domain_size(count, domain, server) is None:
            count += step
        return count

    return (
        f"{devices} devices cannot fill domains of {domain} {hardware.name} evenly with servers of {server}; "
        f"nearest possible: {nearest(-1)} or {nearest(1)}"
    )
