"""Small fabrics built by hand, independent of the profiles and their builders."""

from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest

from moesim.hardware.topology import Cluster


def _join(graph, a, b, capacity, latency, kind):
    for near, far in ((a, b), (b, a)):
        graph.add_edge(near, far, capacity=capacity, latency=latency, kind=kind)


def _devices(graph, count):
    names = tuple(f"device{rank}" for rank in range(count))
    graph.add_nodes_from(names, kind="device")
    return names


def nvlink(devices, planes=2, capacity=900e9, latency=0.5e-6):
    """One NVLink domain; a device's capacity is shared by the planes."""
    graph = nx.DiGraph()
    names = _devices(graph, devices)
    for plane in range(planes):
        graph.add_node(f"nvlink0.{plane}", kind="switch")
        for name in names:
            _join(graph, name, f"nvlink0.{plane}", capacity / planes, latency / 2, "nvlink")
    zero = np.zeros(devices, dtype=int)
    return Cluster("nvlink", None, graph, names, np.arange(devices) // 4, zero, "crossbar", {})


def torus(shape, capacity=100e9, latency=1e-6, ties="split", wrap=None, slices=1):
    """Slices of a torus or mesh, last dimension fastest."""
    graph, chips = nx.DiGraph(), int(np.prod(shape))
    names = _devices(graph, chips * slices)
    for first in range(0, chips * slices, chips):
        grid = first + np.arange(chips).reshape(shape)
        for axis, length in enumerate(shape):
            wraps = length > 2 if wrap is None else wrap[axis]
            line = np.moveaxis(grid, axis, 0)
            for position in range(length if wraps else length - 1):
                for a, b in zip(line[position].ravel(), line[(position + 1) % length].ravel(), strict=True):
                    _join(graph, names[a], names[b], capacity, latency, "ici")
    domain = np.arange(chips * slices) // chips
    options = {"shape": shape, "ties": ties}
    return Cluster("torus", None, graph, names, np.arange(chips * slices) // 4, domain, "dimension_order", options)


def rails(nodes, size=4, unit=2, spines=2, nic=50e9, **options):
    """Nodes of `size` GPUs on rails; `unit` nodes under one leaf; leaf uplinks carry what their NICs can."""
    graph = nx.DiGraph()
    names = _devices(graph, nodes * size)
    for rank, name in enumerate(names):
        node, rail = divmod(rank, size)
        graph.add_nodes_from((f"nvlink{node}.{plane}" for plane in range(2)), kind="switch")
        for plane in range(2):
            _join(graph, name, f"nvlink{node}.{plane}", 225e9, 0.25e-6, "nvlink")
        graph.add_node(f"nic{rank}", kind="nic")
        graph.add_node(f"leaf{node // unit}.{rail}", kind="switch")
        _join(graph, name, f"nic{rank}", 64e9, 0.7e-6, "pcie")
        _join(graph, f"nic{rank}", f"leaf{node // unit}.{rail}", nic, 0.7e-6, "infiniband")
    for leaf in [n for n in graph if n.startswith("leaf")]:
        for spine in range(spines):
            graph.add_node(f"spine{spine}", kind="switch")
            _join(graph, leaf, f"spine{spine}", nic * unit / spines, 1e-6, "infiniband")
    node = np.arange(nodes * size) // size
    return Cluster("rails", None, graph, names, node, node, "hierarchical", options)


def mesh(devices, capacity=64e9):
    """A full mesh without switches, routed by shortest paths."""
    graph = nx.complete_graph(devices, nx.DiGraph())
    graph = nx.relabel_nodes(graph, {rank: f"device{rank}" for rank in range(devices)})
    nx.set_edge_attributes(graph, {e: {"capacity": capacity, "latency": 1e-6, "kind": "xgmi"} for e in graph.edges})
    nx.set_node_attributes(graph, "device", "kind")
    names = tuple(f"device{rank}" for rank in range(devices))
    zero = np.zeros(devices, dtype=int)
    return Cluster("mesh", None, graph, names, zero, zero, "shortest", {})


def pcie(devices, capacity=64e9):
    """Devices at one PCIe root."""
    graph = nx.DiGraph()
    names = _devices(graph, devices)
    graph.add_node("pcie0", kind="switch")
    for name in names:
        _join(graph, name, "pcie0", capacity, 0.5e-6, "pcie")
    zero = np.zeros(devices, dtype=int)
    return Cluster("pcie", None, graph, names, zero, zero, "crossbar", {})


def wires(devices, links):
    """Any graph of one-way links (from, to, bytes/s); nodes that are no devices are switches."""
    graph = nx.DiGraph()
    names = _devices(graph, devices)
    for near, far, capacity in links:
        for end in (near, far):
            if end not in graph:
                graph.add_node(end, kind="switch")
        graph.add_edge(near, far, capacity=capacity, latency=1e-6, kind="pcie")
    zero = np.zeros(devices, dtype=int)
    return Cluster("wires", None, graph, names, np.arange(devices), zero, "shortest", {})


def graph(devices, seed):
    """A random connected graph of two-way links, each way with a capacity of its own."""
    rng = np.random.default_rng(seed)
    pairs = {(int(rng.integers(rank)), rank) for rank in range(1, devices)}  # a random tree, and some more links
    pairs |= {tuple(sorted(map(int, rng.choice(devices, 2, replace=False)))) for _ in range(devices)}
    ways = [way for a, b in sorted(pairs) for way in ((a, b), (b, a))]
    return wires(devices, [(f"device{a}", f"device{b}", float(rng.choice([25e9, 50e9, 100e9]))) for a, b in ways])


@pytest.fixture(scope="session")
def fabrics():
    return SimpleNamespace(nvlink=nvlink, torus=torus, rails=rails, mesh=mesh, pcie=pcie, wires=wires, graph=graph)
