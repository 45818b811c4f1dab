"""Tori: which shapes a product offers, which axes wrap, and the published bisection."""

from math import prod

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.hardware.fabrics import Degraded, build_cluster
from moesim.hardware.topology import Link, cut_bandwidth, injection_bandwidth
from moesim.network.routes import build_network

DEVICE = Device("toy", "tpu", {"bf16": 1e14}, 32e9, 1e12, 8)
SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))


def hardware(**topology) -> Hardware:
    return Hardware("toy", "Toy", DEVICE, Host(None, None, None), {"kind": "torus", **topology})


V4 = hardware(pod=(16, 16, 16), host=(2, 2, 1), link=Link(50e9, 1e-6), shapes=SMALL, cube=4)
V5P = hardware(pod=(16, 20, 28), host=(2, 2, 1), link=Link(100e9, 1e-6), shapes=SMALL, cube=4, largest_slice=6144)
V6E = hardware(pod=(16, 16), host=(4, 2), link=Link(100e9, 1e-6), shapes=FLAT, wrap_length=16)
CUBES = st.sampled_from([4, 8, 12, 16])


def half(cluster) -> float:
    """Bytes/s one way between the halves of a slice, cut across its longest axis."""
    shape = cluster.options["shape"]
    axis = int(np.argmax(shape))
    return cut_bandwidth(cluster, np.flatnonzero(np.indices(shape)[axis].ravel() < shape[axis] // 2))


@pytest.mark.parametrize(
    ("product", "devices", "shape", "wrap"),
    [
        (V5P, 4, (2, 2, 1), (False, False, False)),
        (V5P, 16, (2, 2, 4), (False, False, False)),
        (V5P, 32, (2, 4, 4), (False, False, False)),
        (V5P, 64, (4, 4, 4), (True, True, True)),
        (V5P, 128, (4, 4, 8), (True, True, True)),
        (V5P, 6144, (16, 16, 24), (True, True, True)),
        (V4, 4096, (16, 16, 16), (True, True, True)),
        (V6E, 64, (8, 8), (False, False)),
        (V6E, 128, (8, 16), (False, True)),
        (V6E, 256, (16, 16), (True, True)),
    ],
)
def test_shape_and_wrap_of_a_slice(product, devices, shape, wrap):
    cluster = build_cluster(product, devices)
    assert cluster.options["shape"] == shape
    assert cluster.options["wrap"] == wrap
    ends = [name for name, degree in cluster.graph.out_degree() if degree == 2 * len(shape)]
    assert len(ends) == devices if all(wrap) else len(ends) < devices


def test_bisection_of_published_pods():
    # Google states 24 TB/s for a v4 pod and 3.2 TB/s for a v6e pod, both directions' sum halved or not left open.
    assert half(build_cluster(V4, 4096)) == pytest.approx(24e12, rel=0.08)
    assert half(build_cluster(V6E, 256)) == pytest.approx(3.2e12, rel=0.01)


def test_injection_is_six_links_a_chip():
    """1,200 GB/s a chip, both directions, of a TPU v5p (Google Cloud)."""
    assert 2 * injection_bandwidth(build_cluster(V5P, 64), "ici") == pytest.approx(64 * 1200e9)


@settings(max_examples=25, deadline=None)
@given(CUBES, CUBES, CUBES)
def test_a_torus_is_regular_and_the_last_axis_runs_fastest(a, b, c):
    shape = (a, b, c)
    cluster = build_cluster(V4, prod(shape), shape=shape)
    graph = cluster.graph
    assert {degree for _, degree in graph.out_degree()} == {6}
    rank = np.random.default_rng(a * b * c).integers(prod(shape))
    here = np.array(np.unravel_index(rank, shape))
    expected = set()
    for axis in range(3):
        for step in (-1, 1):
            there = here.copy()
            there[axis] = (there[axis] + step) % shape[axis]
            expected.add(f"device{np.ravel_multi_index(there, shape)}")
    assert set(graph.successors(f"device{rank}")) == expected


def test_hosts_are_blocks_of_four_chips():
    cluster = build_cluster(V5P, 64)
    assert np.bincount(cluster.node).tolist() == [4] * 16
    coordinates = np.array(np.unravel_index(np.flatnonzero(cluster.node == 0), (4, 4, 4))).T.tolist()
    assert coordinates == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def test_slices_of_a_pod_share_no_links():
    cluster = build_cluster(V5P, 8960, shape=(16, 4, 4), slices=35)
    assert nx.number_strongly_connected_components(cluster.graph) == 35
    assert np.bincount(cluster.domain).tolist() == [256] * 35
    assert cluster.node.max() + 1 == 8960 // 4
    joined = hardware(**{**V5P.topology, "nic": Link(6.25e9, 5.6e-6)})
    assert nx.is_strongly_connected(build_cluster(joined, 512, shape=(4, 8, 8), slices=2).graph)


def test_one_chip():
    assert build_cluster(V6E, 1).graph.number_of_edges() == 0


@pytest.mark.parametrize(
    ("product", "devices", "choices", "expected"),
    [
        (
            V5P,
            65,
            {},
            "devices: toy offers no 65 chips as one slice; nearest: 32 (2x4x4), 64 (4x4x4), 128 (4x4x8), 192 (4",
        ),
        (V5P, 8960, {}, "devices: toy offers no 8960 chips as one slice; nearest: 5760 (12x20x24), 6144 (16x16x24)"),
        (V5P, 9000, {}, "devices: 9000 chips; a pod of toy has 8960"),
        (V5P, 60, {"shape": (3, 4, 5)}, "options.shape: toy offers no slice 3x4x5; nearest: 4x4x4, "),
        (V5P, 128, {"shape": (4, 4, 4)}, "devices: 1 x 4x4x4 is 64 chips, not 128"),
        (V5P, 128, {"slices": 0}, "options.slices: 0 slices; write 1 or more"),
        (
            V5P,
            66,
            {"slices": 2},
            "devices: toy offers no 66 chips as 2 equal slices; nearest: 32 (2x2x4), 64 (2x4x4), 128",
        ),
        (V6E, 512, {}, "devices: 512 chips; a pod of toy has 256"),
        (V6E, 32, {"shape": (2, 16)}, "options.shape: toy offers no slice 2x16; nearest: 4x8, 4x4"),
        (V6E, 0, {}, "devices: toy offers no 0 chips as one slice; nearest: 1 (1x1), 4 (2x2)"),
    ],
)
def test_what_the_product_does_not_offer(product, devices, choices, expected):
    with pytest.raises(InvalidInput) as caught:
        build_cluster(product, devices, **choices)
    assert expected in str(caught.value)


def test_an_axis_order_may_be_chosen():
    assert build_cluster(V5P, 256, shape=(16, 4, 4)).options["shape"] == (16, 4, 4)


def test_a_dead_link_of_one_slice_leaves_the_others_alone():
    cluster = build_cluster(V5P, 128, shape=(4, 4, 4), slices=2, degraded=[Degraded(between=("device0", "device1"))])
    assert not cluster.graph.has_edge("device1", "device0")
    assert cluster.graph.has_edge("device64", "device65")


@pytest.mark.parametrize("shape", [(4, 4, 8), (8, 4, 4)])
def test_twisting_a_slice_speeds_up_its_all_to_all(shape):
    """By hops that the lattice saves: all links of a twisted slice are equally loaded by uniform traffic."""
    chips = prod(shape)
    straight, twisted = (build_cluster(V4, chips, shape=shape, twisted=twist) for twist in (False, True))
    assert {degree for _, degree in twisted.graph.out_degree()} == {6}
    hops = [dict(nx.single_source_shortest_path_length(c.graph, c.devices[0])) for c in (straight, twisted)]
    assert max(hops[1].values()) < max(hops[0].values())
    network, rank = build_network(twisted), np.arange(chips)
    load = network.load(rank[:, None], rank[None, :], np.ones((chips, chips)))
    assert np.allclose(load, load[0])  # an edge-transitive lattice (k x k x 2k)
    assert load[0] == pytest.approx(chips * sum(hops[1].values()) / len(load))
    before = build_network(straight).load(rank[:, None], rank[None, :], np.ones((chips, chips)))
    assert before.max() / load.max() == pytest.approx(1.745, abs=1e-3)


def test_every_chip_of_a_twisted_slice_sees_the_same_slice():
    graph = build_cluster(V4, 256, shape=(4, 8, 8), twisted=True).graph
    far = [sorted(nx.single_source_shortest_path_length(graph, f"device{r}").values()) for r in (0, 77, 130, 255)]
    assert all(other == far[0] for other in far)


@pytest.mark.parametrize(("shape", "text"), [((4, 4, 4), "4x4x4"), ((4, 4, 12), "4x4x12"), ((2, 2, 4), "2x2x4")])
def test_shapes_that_cannot_be_twisted(shape, text):
    with pytest.raises(InvalidInput, match=rf"options\.twisted: {text} cannot be twisted; of whole cubes, write k x k"):
        build_cluster(V4, prod(shape), shape=shape, twisted=True)
