"""NVLink domains, meshes and PCIe nodes, alone and on rails of leaf and spine switches."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.hardware.fabrics import Degraded, ScaleOut, build_cluster
from moesim.hardware.fabrics.scale_up import domain_size
from moesim.hardware.topology import Link, injection_bandwidth

RAILS = ScaleOut(Link(50e9, 2.8e-6), 64e9, 0.9e-6, unit=4, radix=16)


def hardware(**topology) -> Hardware:
    device = Device("toy", "gpu", {"bf16": 1e15}, 80e9, 3e12, 100)
    return Hardware("toy", "Toy", device, Host(None, None, None), topology)


def nodes_of_8(scale_out=RAILS) -> Hardware:
    return hardware(kind="nvlink", domain=8, server=8, planes=4, link=Link(450e9, 0.6e-6), scale_out=scale_out)


def racks_of_72(scale_out=RAILS) -> Hardware:
    return hardware(kind="nvlink", domain=72, server=4, planes=18, link=Link(900e9, 0.6e-6), scale_out=scale_out)


def capacity(cluster, kind_from: str, kind_to: str) -> float:
    """Bytes/s of all edges from nodes whose names begin with one word to those that begin with another."""
    edges = cluster.graph.edges(data="capacity")
    return sum(c for a, b, c in edges if a.startswith(kind_from) and b.startswith(kind_to))


def test_one_rack_is_a_crossbar_with_the_published_aggregate():
    cluster = build_cluster(racks_of_72(), 72)
    assert cluster.routing == "crossbar"
    assert 2 * injection_bandwidth(cluster, "nvlink") == pytest.approx(129.6e12)  # NVIDIA's "130 TB/s" for an NVL72
    assert cluster.graph.number_of_edges() == 2 * 72 * 18
    assert cluster.node.tolist() == [rank // 4 for rank in range(72)]
    assert set(cluster.domain) == {0}


def test_two_nodes_on_rails_edge_by_edge():
    cluster = build_cluster(nodes_of_8(), 16)
    graph = cluster.graph
    assert cluster.routing == "hierarchical"
    assert graph.edges["device9", "nvlink1.3"] == {"capacity": 112.5e9, "latency": 0.3e-6, "kind": "nvlink"}
    assert graph.edges["device9", "nic9"] == {"capacity": 64e9, "latency": 0.7e-6, "kind": "pcie"}
    assert graph.edges["nic9", "leaf0.1"] == {"capacity": 50e9, "latency": 0.7e-6, "kind": "infiniband"}
    assert graph.edges["leaf0.1", "spine0"] == {"capacity": 100e9, "latency": 0.45e-6, "kind": "infiniband"}
    assert all(graph.has_edge(b, a) for a, b in graph.edges)
    assert cluster.domain.tolist() == [0] * 8 + [1] * 8


def test_latency_under_one_leaf_and_across_a_spine_is_the_measured_one():
    """64 B over InfiniBand: 2.8 us under one leaf, 3.7 us across leaves (DeepSeek, ISCA 2025, table 5)."""
    graph = build_cluster(nodes_of_8(), 16).graph

    def along(*path):
        return sum(graph.edges[hop]["latency"] for hop in pairwise(path))

    assert along("device0", "nic0", "leaf0.0", "nic8", "device8") == pytest.approx(2.8e-6)
    across = along("device0", "nic0", "leaf0.0", "spine0", "leaf0.1", "nic9", "device9")
    assert across == pytest.approx(3.7e-6)


@pytest.mark.parametrize("oversubscription", [1.0, 2.0, 3.5])
def test_oversubscription_is_leaf_capacity_down_over_up(oversubscription):
    cluster = build_cluster(nodes_of_8(), 256, oversubscription=oversubscription)
    down, up = capacity(cluster, "leaf", "nic"), capacity(cluster, "leaf", "spine")
    assert down / up == pytest.approx(oversubscription)
    assert down == pytest.approx(256 * 50e9)


def test_scalable_units_and_spines_of_the_reference_architecture():
    """NVIDIA DGX SuperPOD (B200): 64 nodes have 16 leaves and 8 spines, 256 nodes 64 and 32."""
    scale_out = ScaleOut(Link(50e9, 2.8e-6), 64e9, 0.9e-6, unit=32, radix=64)
    for nodes, leaves, spines in ((64, 16, 8), (128, 32, 16), (256, 64, 32)):
        names = build_cluster(nodes_of_8(scale_out), 8 * nodes).graph.nodes
        assert sum(name.startswith("leaf") for name in names) == leaves
        assert sum(name.startswith("spine") for name in names) == spines


def test_spines_per_rail_join_only_their_rail():
    graph = build_cluster(nodes_of_8(), 64, spines="per_rail").graph
    for spine in (name for name in graph if name.startswith("spine")):
        assert len({leaf.partition(".")[2] for leaf in graph.successors(spine)}) == 1
    with pytest.raises(InvalidInput, match=r"options\.forwarding: spines per rail need forwarding"):
        build_cluster(nodes_of_8(), 64, spines="per_rail", forwarding=False)


def test_a_mesh_has_one_link_a_pair():
    mesh = hardware(kind="full_mesh", domain=8, link=Link(64e9, 1e-6), scale_out=RAILS)
    alone = build_cluster(mesh, 8)
    assert alone.routing == "shortest"
    assert alone.graph.number_of_edges() == 8 * 7
    assert injection_bandwidth(alone, "xgmi") == pytest.approx(8 * 448e9)
    joined = build_cluster(mesh, 16)
    assert joined.options["scale_up"] == "mesh"
    assert not joined.graph.has_edge("device0", "device8")


def test_pcie_nodes_meet_at_their_root():
    cluster = build_cluster(hardware(kind="pcie", domain=4, link=Link(32e9, 1e-6), scale_out=RAILS), 8)
    assert cluster.graph.edges["device5", "pcie1"]["kind"] == "pcie"
    assert cluster.graph.edges["nic5", "leaf0.1"]["kind"] == "infiniband"


def test_one_device():
    cluster = build_cluster(hardware(kind="single"), 1)
    assert cluster.ranks == 1
    assert cluster.graph.number_of_edges() == 0
    with pytest.raises(InvalidInput, match="devices: toy is one device, not 2; write 1"):
        build_cluster(hardware(kind="single"), 2)


@pytest.mark.parametrize(
    ("make", "devices", "expected"),
    [
        (
            racks_of_72,
            73,
            "73 devices cannot fill domains of 72 toy evenly with servers of 4; nearest possible: 72 or 80",
        ),
        (nodes_of_8, 12, "nearest possible: 8 or 16"),
        (nodes_of_8, 0, "0 is not a number of devices"),
        (nodes_of_8, -8, "-8 is not a number of devices"),
    ],
)
def test_sizes_that_cannot_be(make, devices, expected):
    with pytest.raises(InvalidInput, match="devices: ") as caught:
        build_cluster(make(), devices)
    assert expected in str(caught.value)


def test_joining_domains_needs_a_network():
    build_cluster(nodes_of_8(scale_out=None), 8)
    with pytest.raises(InvalidInput, match=r"topology\.scale_out: missing; it has to join the 2 domains"):
        build_cluster(nodes_of_8(scale_out=None), 16)
    with pytest.raises(InvalidInput, match=r"options\.oversubscription: toy has no network between servers"):
        build_cluster(nodes_of_8(scale_out=None), 8, oversubscription=2)


def test_unknown_choices_are_all_named():
    with pytest.raises(InvalidInput) as caught:
        build_cluster(nodes_of_8(), 16, oversubcription=2, shape=(4, 4))
    assert "options.oversubcription: is no choice of the fabric 'nvlink'; did you mean 'oversubscription'?" in str(
        caught.value
    )
    assert "options.shape: is no choice" in str(caught.value)
    with pytest.raises(InvalidInput, match=r"options\.oversubscription: must be above zero, not 0"):
        build_cluster(nodes_of_8(), 16, oversubscription=0)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1500), st.sampled_from([(8, 8), (72, 4), (16, 2), (4, 4)]))
def test_domains_are_filled_evenly_and_at_least_half(devices, product):
    domain, server = product
    size = domain_size(devices, domain, server)
    if devices <= domain:
        assert size == devices
    elif size is not None:
        assert devices % size == size % server == 0
        assert domain / 2 <= size <= domain
    else:
        assert devices % server or devices % domain


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.booleans())
def test_every_pair_is_joined_and_every_link_has_figures(nodes, per_rail):
    cluster = build_cluster(nodes_of_8(), 8 * nodes, spines="per_rail" if per_rail else "shared")
    assert nx.is_strongly_connected(cluster.graph)
    for _, _, link in cluster.graph.edges(data=True):
        assert link["capacity"] > 0
        assert link["latency"] >= 0
    assert np.bincount(cluster.domain).tolist() == [8] * nodes
    assert set(cluster.devices) <= set(cluster.graph)


def test_degraded_parts():
    whole = build_cluster(racks_of_72(), 72)
    parts = [Degraded(node="nvlink0.9"), Degraded(between=("device3", "nvlink0.0"), remaining=0.5)]
    cluster = build_cluster(racks_of_72(), 72, degraded=parts)
    lost = injection_bandwidth(whole, "nvlink") - injection_bandwidth(cluster, "nvlink")
    assert lost == pytest.approx(72 * 50e9 + 25e9)
    assert cluster.routing == "crossbar"
    around = build_cluster(racks_of_72(), 72, degraded=parts, routing="shortest")
    assert around.routing == "shortest"
    assert whole.graph.edges["device3", "nvlink0.0"]["capacity"] == 50e9


def test_degraded_parts_that_cannot_be():
    wrong = [
        Degraded(node="nvlink0.18"),
        Degraded(between=("device0", "device1")),
        Degraded(between=("device0", "nvlink0.0"), remaining=1.5),
        Degraded(node="device0"),
    ]
    with pytest.raises(InvalidInput) as caught:
        build_cluster(racks_of_72(), 72, degraded=wrong)
    assert [str(problem) for problem in caught.value.problems] == [
        "options.degraded.0: the graph has no node 'nvlink0.18'",
        "options.degraded.1: the graph has no link between 'device0' and 'device1'",
        "options.degraded.2.remaining: 1.5 is no share of a capacity; write 0 to 1",
        "options.degraded.3: device0 is a rank of the job; leave it out of the job instead",
    ]
    cut = [Degraded(between=("device5", f"nvlink0.{plane}")) for plane in range(18)]
    with pytest.raises(InvalidInput, match="leaves no path between device5 and the rest"):
        build_cluster(racks_of_72(), 72, degraded=cut)


def test_4096_ranks_are_built():
    cluster = build_cluster(racks_of_72(), 4096)
    assert cluster.ranks == 4096
    assert sum(1 for *_, kind in cluster.graph.edges(data="kind") if kind == "nvlink") == 2 * 18 * 4096
