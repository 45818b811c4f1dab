"""Any graph, written out as nodes and links: asymmetric, heterogeneous, or not built yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.topology import LINK_KINDS, Cluster, Link, connect


@dataclass(frozen=True, slots=True)
class Wire:
    """A link of a custom graph; one_way leaves out the direction from `b` to `a`."""

    a: str
    b: str
    link: Link
    kind: str
    one_way: bool = False


def custom(
    hardware: Hardware,
    devices: int,
    *,
    nodes: Mapping[str, str],
    links: Sequence[Wire],
    servers: Sequence[Sequence[str]] = (),
    domains: Sequence[Sequence[str]] = (),
) -> Cluster:
    """A graph as the profile writes it.

    nodes: kind (``device``, ``switch``, ``nic``) of each node by name; rank r is the r-th device. servers, domains:
    groups of devices that share a server or a scale-up domain; by default each device is its own server, and all are
    one domain. Routing is ``shortest``.
    """
    names = tuple(name for name, kind in nodes.items() if kind == "device")
    if devices != len(names):
        raise InvalidInput(Problem(f"{devices}, but the topology has {len(names)} device nodes", "devices"))
    graph = nx.DiGraph()
    for name, kind in nodes.items():
        graph.add_node(name, kind=kind)
    problems = [problem for index, wire in enumerate(links) for problem in _wrong(wire, index, graph)]
    if problems:
        raise InvalidInput(problems)
    for wire in links:
        if wire.one_way:
            attributes = {"capacity": wire.link.bytes_per_s, "latency": wire.link.latency_s, "kind": wire.kind}
            graph.add_edge(wire.a, wire.b, **attributes)
        else:
            connect(graph, [(wire.a, wire.b)], wire.link, wire.kind)
    if cut := unjoined(names, graph.edges):
        raise InvalidInput(Problem(cut, "topology.links"))
    node = _groups(names, servers, np.arange(devices), "topology.servers")
    domain = _groups(names, domains, np.zeros(devices, dtype=np.int64), "topology.domains")
    return Cluster(f"{devices} x {hardware.name}", hardware, graph, names, node, domain, "shortest")


def unjoined(devices: Sequence[str], ways: Iterable[tuple[str, str]]) -> str:
    """What is wrong, naming a pair, where some device cannot send to some other; '' where all can. ways: (from, to)."""
    graph = nx.DiGraph(list(ways))
    graph.add_nodes_from(devices)
    for direction, word in ((graph, "send to"), (graph.reverse(copy=False), "receive from")):
        reached = nx.descendants(direction, devices[0]) if devices else set()
        for device in devices[1:]:
            if device not in reached:
                return f"no path lets {devices[0]} {word} {device}; join them by links"
    return ""


def _wrong(wire: Wire, index: int, graph: nx.DiGraph) -> list[Problem]:
    field = f"topology.links.{index}"
    problems = [
        Problem(f"{end!r} is not one of the nodes {', '.join(graph)}", field)
        for end in (wire.a, wire.b)
        if end not in graph
    ]
    if wire.a == wire.b:
        problems.append(Problem(f"joins {wire.a!r} to itself", field))
    if wire.link.bytes_per_s <= 0:
        problems.append(Problem("has no capacity; leave the link out, or write a bandwidth above zero", field))
    if wire.kind not in LINK_KINDS:
        problems.append(
            Problem(f"{wire.kind!r} is no kind of link; write one of {', '.join(LINK_KINDS)}", f"{field}.kind")
        )
    return problems


def _groups(names: Sequence[str], groups: Sequence[Sequence[str]], default: np.ndarray, field: str) -> np.ndarray:
    """Group index of each device."""
    if not groups:
        return default
    group_of = {name: index for index, members in enumerate(groups) for name in members}
    listed = [name for members in groups for name in members]
    if sorted(listed) != sorted(names):
        raise InvalidInput(Problem("must name each device node exactly once", field))
    return np.array([group_of[name] for name in names])
