"""Routing: structural sums against paths walked one by one, exact anchors, dead links, symmetry, bad input."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.network.collectives import all_to_all
from moesim.network.flow import incidence
from moesim.network.links import accumulate
from moesim.network.routes import build_network


def every_pair(network):
    rank = np.arange(network.ranks)
    near, far = (a.ravel() for a in np.broadcast_arrays(rank[:, None], rank[None, :]))
    apart = (near != far) & network.routes.reachable(near, far)
    return near[apart], far[apart]


def without(cluster, *links):
    graph = cluster.graph.copy()
    graph.remove_edges_from(links)
    return dataclasses.replace(cluster, graph=graph)


def down(cluster, *nodes):
    graph = cluster.graph.copy()
    graph.remove_nodes_from(nodes)
    return dataclasses.replace(cluster, graph=graph)


def shortest(cluster, **options):
    return dataclasses.replace(cluster, routing="shortest", options=options)


CASES = {
    "one domain": lambda f: f.nvlink(6, planes=3),
    "one domain, dead ports": lambda f: without(
        f.nvlink(6, planes=3), ("device0", "nvlink0.1"), ("nvlink0.2", "device3"), ("nvlink0.0", "device3")
    ),
    "torus": lambda f: f.torus((3, 4, 2)),
    "torus, all ties up": lambda f: f.torus((4, 6), ties="one_way"),
    "mesh": lambda f: f.torus((3, 4), wrap=(False, False)),
    "partial wrap": lambda f: f.torus((4, 5), wrap=(False, True)),
    "torus, dead link": lambda f: without(f.torus((4, 5)), ("device0", "device1")),
    "slices": lambda f: f.torus((2, 3), slices=3),
    "rails": lambda f: f.rails(4),
    "rails, no forwarding": lambda f: f.rails(4, forwarding=False),
    "rails, ecmp": lambda f: f.rails(4, spreading="ecmp"),
    "rails, dead uplink": lambda f: without(f.rails(4), ("leaf0.1", "spine0")),
    "rails, dead NICs": lambda f: down(f.rails(4), "nic5", "nic6", "nic12"),
    "rails, dead NICs, no forwarding": lambda f: down(f.rails(4, forwarding=False), "nic5", "nic12"),
    "rails, dead NIC, ecmp": lambda f: down(f.rails(4, spreading="ecmp"), "nic5"),
    "rails, dead leaf": lambda f: down(f.rails(4), "leaf0.2"),
    "rails, NIC dead one way": lambda f: without(f.rails(4), ("leaf0.1", "nic5")),
    "shortest": lambda f: shortest(f.rails(3)),
    "shortest, ecmp": lambda f: shortest(f.rails(3), spreading="ecmp"),
    "shortest, by latency": lambda f: shortest(f.torus((3, 3)), metric="latency"),
    "full mesh": lambda f: f.mesh(5),
}


@pytest.mark.parametrize("name", CASES)
def test_sums_equal_paths_walked_one_by_one(fabrics, name):
    network = build_network(CASES[name](fabrics))
    near, far = every_pair(network)
    rng = np.random.default_rng(3)
    traffic = rng.lognormal(0, 1, near.size)
    paths = incidence(network, near, far)
    assert np.allclose(network.load(near, far, traffic), paths.T @ traffic, rtol=1e-12)
    matrix = np.zeros((network.ranks, network.ranks))
    matrix[near, far] = traffic
    rank = np.arange(network.ranks)
    assert np.allclose(network.load(rank[:, None], rank[None, :], matrix), paths.T @ traffic, rtol=1e-12)
    value = rng.random(len(network.links.ends))
    slowest = [value[paths.indices[a:b]].max() for a, b in zip(paths.indptr[:-1], paths.indptr[1:], strict=True)]
    assert np.allclose(network.worst(near, far, value, near.shape), slowest)


@pytest.mark.parametrize("name", CASES)
def test_every_byte_leaves_its_source_and_arrives(fabrics, name):
    network = build_network(CASES[name](fabrics))
    near, far = every_pair(network)
    traffic = np.random.default_rng(4).integers(1, 1000, near.size).astype(float)
    load = network.load(near, far, traffic)
    node = {name: number for number, name in enumerate({n for ends in network.links.ends for n in ends})}
    left = np.bincount([node[a] for a, _ in network.links.ends], weights=load, minlength=len(node))
    came = np.bincount([node[b] for _, b in network.links.ends], weights=load, minlength=len(node))
    device = [node[d] for d in network.devices]
    sent = np.bincount(near, weights=traffic, minlength=network.ranks)
    received = np.bincount(far, weights=traffic, minlength=network.ranks)
    assert np.allclose((left - came)[device], sent - received)
    between = [n for name, n in node.items() if name not in network.devices]
    assert np.allclose(left[between], came[between])


def test_uniform_all_to_all_behind_switches_takes_74_microseconds(fabrics):
    network = build_network(fabrics.nvlink(256, planes=2))
    transfer = all_to_all(network, np.arange(256), np.full((256, 256), 2**26 / 256))
    assert transfer.wire_s == pytest.approx(255 / 256 * 2**26 / 900e9, rel=1e-12)
    assert transfer.wire_s * 1e6 == pytest.approx(74.3, abs=0.05)
    assert np.allclose(transfer.latency_s, 0.5e-6)


@pytest.mark.parametrize(("ties", "microseconds"), [("split", 1342.177), ("one_way", 1509.949)])
def test_uniform_all_to_all_on_an_8x8x16_torus(fabrics, ties, microseconds):
    network = build_network(fabrics.torus((8, 8, 16), ties=ties))
    transfer = all_to_all(network, np.arange(1024), np.full((1024, 1024), 2**26 / 1024))
    assert transfer.wire_s * 1e6 == pytest.approx(microseconds, rel=1e-6)


def test_groups_in_one_call_load_links_as_groups_one_by_one(fabrics):
    network = build_network(fabrics.torus((4, 4)))
    ranks = np.arange(16).reshape(4, 4)
    traffic = np.random.default_rng(0).random((4, 4, 4))
    together = network.load(ranks[:, :, None], ranks[:, None, :], traffic)
    apart = sum(network.load(r[:, None], r[None, :], t) for r, t in zip(ranks, traffic, strict=True))
    assert np.allclose(together, apart)


def test_dead_ring_link_sends_messages_the_other_way_round(fabrics):
    network = build_network(without(fabrics.torus((6,)), ("device0", "device1")))
    load = network.load(np.array([0]), np.array([1]), np.array([7.0]))
    used = {network.links.ends[i] for i in np.flatnonzero(load)}
    assert used == {(f"device{r}", f"device{r - 1 if r else 5}") for r in (0, 5, 4, 3, 2)}
    assert network.latency(np.array([0]), np.array([1])) == pytest.approx(5e-6)


def test_dead_mesh_link_is_refused_with_both_ends_named(fabrics):
    network = build_network(without(fabrics.torus((4,), wrap=(False,)), ("device1", "device2")))
    with pytest.raises(InvalidInput, match=r"no path from device0 to device2 .*; join them by links"):
        all_to_all(network, np.arange(4), np.ones((4, 4)))
    round_about = without(fabrics.torus((4, 4), wrap=(False, False)), ("device0", "device1"))
    with pytest.raises(InvalidInput, match=r"no path from device0 to device1 .*; routing: shortest goes round"):
        all_to_all(build_network(round_about), np.arange(16), np.ones((16, 16)))
    assert all_to_all(build_network(shortest(round_about)), np.arange(16), np.ones((16, 16))).wire_s > 0
    assert all_to_all(network, np.array([0, 1]), np.ones((2, 2))).wire_s > 0


def test_dead_port_spreads_traffic_over_the_other_planes(fabrics):
    cluster = fabrics.nvlink(4, planes=3, capacity=300e9)
    network = build_network(without(cluster, ("device0", "nvlink0.0")))
    load = network.load(np.array([0, 1]), np.array([2, 2]), np.array([6.0, 6.0]))
    by_name = {network.links.ends[i]: load[i] for i in np.flatnonzero(load)}
    assert by_name["device0", "nvlink0.1"] == by_name["device0", "nvlink0.2"] == 3
    assert by_name["nvlink0.0", "device2"] == 2
    assert by_name["nvlink0.1", "device2"] == 5


def test_forwarding_keeps_messages_on_the_rail(fabrics):
    source, target, traffic = np.array([0]), np.array([5]), np.array([1.0])  # rail 0 of node 0 to rail 1 of node 1
    kept = build_network(fabrics.rails(4))
    ends = {kept.links.ends[i] for i in np.flatnonzero(kept.load(source, target, traffic))}
    assert ("nic1", "leaf0.1") in ends
    assert not any("spine" in name for pair in ends for name in pair)
    direct = build_network(fabrics.rails(4, forwarding=False))
    ends = {direct.links.ends[i] for i in np.flatnonzero(direct.load(source, target, traffic))}
    assert ("nic0", "leaf0.0") in ends
    assert ("leaf0.0", "spine0") in ends


@given(seed=st.integers(0, 2**31), shift=st.integers(0, 23), flip=st.booleans())
@settings(max_examples=25, deadline=None)
def test_relabelling_by_a_symmetry_of_the_torus_changes_nothing(fabrics, seed, shift, flip):
    network = build_network(fabrics.torus((4, 6)))
    x, y = np.unravel_index(np.arange(24), (4, 6))
    dx, dy = np.unravel_index(shift, (4, 6))
    image = np.ravel_multi_index((((-x if flip else x) + dx) % 4, (y + dy) % 6), (4, 6))
    traffic = np.random.default_rng(seed).lognormal(0, 1, (24, 24)) * 1e6
    moved = np.zeros_like(traffic)
    moved[np.ix_(image, image)] = traffic
    one, other = (all_to_all(network, np.arange(24), t) for t in (traffic, moved))
    assert one.wire_s == pytest.approx(other.wire_s)
    assert np.allclose(one.arrived, other.arrived[image])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_relabelling_ranks_behind_a_switch_changes_nothing(fabrics, seed):
    network = build_network(fabrics.nvlink(12))
    rng = np.random.default_rng(seed)
    image, traffic = rng.permutation(12), rng.pareto(1.5, (12, 12)) * 1e6
    moved = np.zeros_like(traffic)
    moved[np.ix_(image, image)] = traffic
    one, other = (all_to_all(network, np.arange(12), t) for t in (traffic, moved))
    assert one.wire_s == pytest.approx(other.wire_s)
    assert np.allclose(one.arrived, other.arrived[image])


def test_accumulate_sums_constant_axes_first():
    weights = np.arange(12.0).reshape(3, 4)
    assert accumulate(np.array([[0], [2], [2]]), weights, 3).tolist() == [6.0, 0.0, 60.0]
    assert accumulate(np.array([[1, 0, 1, 0]]), weights, 2).tolist() == [36.0, 30.0]


def test_bad_graphs_are_refused_with_every_link_named(fabrics):
    cluster = fabrics.torus((3,))
    cluster.graph.edges["device0", "device1"]["capacity"] = 0
    del cluster.graph.edges["device1", "device2"]["latency"]
    with pytest.raises(InvalidInput) as caught:
        build_network(cluster)
    assert [p.field for p in caught.value.problems] == ["link device0 → device1", "link device1 → device2"]
    assert "capacity is 0" in str(caught.value)


def test_unknown_names_are_refused(fabrics):
    with pytest.raises(InvalidInput, match="routing 'teleport' is unknown"):
        build_network(dataclasses.replace(fabrics.mesh(3), routing="teleport"))
    with pytest.raises(InvalidInput, match="spreading"):
        build_network(fabrics.rails(2, spreading="magic"))
    with pytest.raises(InvalidInput, match="metric"):
        build_network(shortest(fabrics.mesh(3), metric="beauty"))
    with pytest.raises(InvalidInput, match="not a node of the graph"):
        build_network(dataclasses.replace(fabrics.mesh(3), devices=("device0", "device7", "device2")))
    with pytest.raises(InvalidInput, match="no multiple"):
        build_network(dataclasses.replace(fabrics.torus((2, 3)), options={"shape": (4, 4)}))
    with pytest.raises(InvalidInput, match="no neighbours in the shape"):
        build_network(dataclasses.replace(fabrics.torus((3, 4)), options={"shape": (4, 3)}))


def test_disconnected_graph_is_refused_where_traffic_needs_it(fabrics):
    cluster = fabrics.mesh(4)
    cluster.graph.remove_edges_from([(a, b) for a, b in list(cluster.graph.edges) if "device3" in (a, b)])
    network = build_network(cluster)
    with pytest.raises(InvalidInput, match=r"no path from device0 to device3 .* 5 more pairs"):
        all_to_all(network, np.arange(4), np.ones((4, 4)))


def bytes_by_link(network, near, far, traffic):
    load = network.load(np.array(near), np.array(far), np.array(traffic, dtype=float))
    return {ends: load[i] for i, ends in enumerate(network.links.ends) if load[i]}


def test_what_a_dead_nic_would_take_enters_by_its_siblings(fabrics):
    network = build_network(down(fabrics.rails(2), "nic5"))
    assert network.routes.complete or network.routes.reachable(np.array([0]), np.array([5])).all()
    load = bytes_by_link(network, [0, 1, 2, 3], [5, 5, 5, 5], [8, 8, 8, 8])
    # Ranks 0, 2, 3 send by their own NICs and rails; rank 1, whose rail is cut, by one of those in turn.
    entering = {ends[0]: size for ends, size in load.items() if ends[1].startswith("device") and "nic" in ends[0]}
    assert entering == {"nic4": 8, "nic6": 8, "nic7": 16}
    assert not any("spine" in end for ends in load for end in ends)
    assert sum(size for ends, size in load.items() if ends[1] == "device5") == 32  # all by NVLink


def test_what_a_dead_nic_would_send_leaves_by_its_siblings(fabrics):
    network = build_network(down(fabrics.rails(2), "nic1"))
    load = bytes_by_link(network, [1, 1, 1, 1], [4, 5, 6, 7], [8, 8, 8, 8])
    leaving = {ends[1]: size for ends, size in load.items() if "device" in ends[0] and "nic" in ends[1]}
    assert leaving == {"nic0": 8, "nic2": 8, "nic3": 16}  # to 4, 6 and 7 on their rails, to 5 by one in turn
    pair = (np.array([1]), np.array([5]))
    assert network.latency(*pair) > build_network(fabrics.rails(2)).latency(*pair)


def test_a_dead_nic_makes_a_uniform_all_to_all_slower_by_its_share(fabrics):
    whole, hurt = build_network(fabrics.rails(2)), build_network(down(fabrics.rails(2), "nic5"))
    traffic = np.full((8, 8), 1e6)
    slower = all_to_all(hurt, np.arange(8), traffic).wire_s / all_to_all(whole, np.arange(8), traffic).wire_s
    assert 4 / 3 * (1 - 1e-9) <= slower <= 2  # what four carried is left to three, evenly at best


def test_a_node_without_any_nic_is_refused_by_name(fabrics):
    network = build_network(down(fabrics.rails(2), "nic4", "nic5", "nic6", "nic7"))
    inside = all_to_all(network, np.arange(4, 8), np.ones((4, 4)))
    assert inside.wire_s > 0
    with pytest.raises(InvalidInput, match=r"no path from device0 to device4 \(rank 0 to rank 4\) and 31 more pairs"):
        all_to_all(network, np.arange(8), np.ones((8, 8)))


def test_rails_of_their_own_need_one_live_rail_in_common(fabrics):
    # Spines per rail: a rail that is dead here and one that is dead there leave the others; none left is refused.
    cluster = fabrics.rails(2, size=2)
    assert all_to_all(build_network(down(cluster, "nic0")), np.arange(4), np.ones((4, 4))).wire_s > 0
    crossed = down(cluster, "nic0", "nic3", "spine0", "spine1")
    with pytest.raises(InvalidInput, match="no path"):
        all_to_all(build_network(crossed), np.arange(4), np.ones((4, 4)))
