"""Any graph as nodes and links."""

import pytest

from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.hardware.fabrics import Wire, build_cluster
from moesim.hardware.topology import Link

NODES = {"x": "device", "hub": "switch", "y": "device", "z": "device"}


def star(*extra: Wire, nodes=NODES, **groups) -> Hardware:
    spokes = [Wire(name, "hub", Link(1e9 * rank, 1e-6), "pcie") for rank, name in enumerate("xyz", 1)]
    device = Device("toy", "gpu", {"bf16": 1e15}, 80e9, 3e12, 100)
    topology = {"kind": "custom", "nodes": nodes, "links": (*spokes, *extra), **groups}
    return Hardware("toy", "Toy", device, Host(None, None, None), topology)


def test_ranks_are_devices_in_order_and_links_keep_their_figures():
    cluster = build_cluster(star(Wire("x", "y", Link(5e9, 0.0), "nvlink", one_way=True)), 3)
    assert cluster.devices == ("x", "y", "z")
    assert cluster.routing == "shortest"
    assert cluster.graph.edges["hub", "z"]["capacity"] == 3e9
    assert cluster.graph.has_edge("x", "y")
    assert not cluster.graph.has_edge("y", "x")
    assert cluster.node.tolist() == [0, 1, 2]


def test_servers_and_domains_are_groups_of_devices():
    cluster = build_cluster(star(servers=(("x",), ("y", "z")), domains=(("x", "y"), ("z",))), 3)
    assert cluster.node.tolist() == [0, 1, 1]
    assert cluster.domain.tolist() == [0, 0, 1]
    with pytest.raises(InvalidInput, match=r"topology\.servers: must name each device node exactly once"):
        build_cluster(star(servers=(("x",), ("y", "y"))), 3)


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (Wire("x", "nub", Link(1e9, 0.0), "pcie"), "topology.links.3: 'nub' is not one of the nodes x, hub, y, z"),
        (Wire("x", "x", Link(1e9, 0.0), "pcie"), "topology.links.3: joins 'x' to itself"),
        (Wire("x", "y", Link(0.0, 0.0), "pcie"), "topology.links.3: has no capacity"),
        (
            Wire("x", "y", Link(1e9, 0.0), "rope"),
            "topology.links.3.kind: 'rope' is no kind of link; write one of nvlink",
        ),
    ],
)
def test_links_that_cannot_be(wire, expected):
    with pytest.raises(InvalidInput) as caught:
        build_cluster(star(wire), 3)
    assert expected in str(caught.value)


def test_a_device_that_nothing_reaches():
    with pytest.raises(InvalidInput, match="no path lets x send to w; join them by links"):
        build_cluster(star(nodes={**NODES, "w": "device"}), 4)
    only_out = Wire("w", "hub", Link(1e9, 0.0), "pcie", one_way=True)
    with pytest.raises(InvalidInput, match="no path lets x send to w"):
        build_cluster(star(only_out, nodes={**NODES, "w": "device"}), 4)


def test_the_size_is_that_of_the_graph():
    with pytest.raises(InvalidInput, match="devices: 4, but the topology has 3 device nodes"):
        build_cluster(star(), 4)
