"""Collectives: exact times and bytes of every algorithm, arrivals of each rank, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.network import collectives
from moesim.network.routes import build_network

S = 8e6


@pytest.fixture(scope="module")
def eight(fabrics):
    return build_network(fabrics.nvlink(8, capacity=800e9, latency=1e-6))


@pytest.mark.parametrize(
    ("algorithm", "wire", "latency"),
    [
        ("ring", 2 * 7 / 8, 14),
        ("two_shot", 2 * 7 / 8, 2),
        ("one_shot", 7, 1),
        ("nvls", 9 / 8, 1),
        ("tree", 2 * 7 / 8, 14),
    ],
)
def test_all_reduce_behind_a_switch(eight, algorithm, wire, latency):
    transfer = collectives.all_reduce(eight, np.arange(8), S, algorithm=algorithm)
    assert transfer.wire_s == pytest.approx(wire * S / 800e9)
    assert transfer.latency_s.max() == pytest.approx(latency * 1e-6)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize(("algorithm", "steps"), [("ring", 7), ("direct", 1)])
def test_gather_and_scatter_behind_a_switch(eight, kind, algorithm, steps):
    transfer = getattr(collectives, kind)(eight, np.arange(8), S, algorithm=algorithm)
    assert transfer.wire_s == pytest.approx(7 / 8 * S / 800e9)
    assert np.allclose(transfer.received, 7 / 8 * S)
    assert np.allclose(transfer.latency_s, steps * 1e-6)


def test_broadcast_by_chain_and_tree(eight):
    chain = collectives.broadcast(eight, np.arange(8), S)
    assert chain.wire_s == pytest.approx(S / 800e9)
    tree = collectives.broadcast(eight, np.arange(8), S, algorithm="tree")
    assert tree.wire_s == pytest.approx(3 * S / 800e9)
    assert tree.received[1:].tolist() == [S] * 7
    assert tree.received[0] == 0


def test_rings_over_nodes_use_all_nics_and_never_change_rail(fabrics):
    network = build_network(fabrics.rails(4, size=4, nic=50e9))
    transfer = collectives.all_reduce(network, np.arange(16), S, algorithm="ring")
    # Each NIC carries a quarter of the 2·15/16 of the buffer that a ring hands on.
    assert transfer.wire_s == pytest.approx(2 * 15 / 16 * S / 4 / 50e9)
    spines = [i for i in transfer.links if "spine" in network.links.ends[i][0]]
    same_rail = {network.links.ends[i][1].rpartition(".")[2] for i in spines}
    assert same_rail == {"0", "1", "2", "3"}  # rails still cross units, each on its own leaf


def test_reduction_in_switches_leaves_a_quarter_for_each_nic(fabrics):
    network = build_network(fabrics.rails(2, size=4, unit=2))
    transfer = collectives.all_reduce(network, np.arange(8), S, algorithm="nvls")
    nic = network.links.id("nic0", "leaf0.0")
    load = dict(zip(transfer.links.tolist(), transfer.load.tolist(), strict=True))
    assert load[nic] == pytest.approx(2 * 1 / 2 * S / 4)


def test_torus_all_reduce_uses_both_directions_of_all_dimensions(fabrics):
    network = build_network(fabrics.torus((4, 4, 4)))
    transfer = collectives.all_reduce(network, np.arange(64), S)
    # Three parts of S/3 take the dimensions in turn: 3/4, 3/16, 3/64 of the part, half each way, there and back.
    assert transfer.wire_s == pytest.approx(2 * S / 3 * (3 / 4 + 3 / 16 + 3 / 64) / 2 / 100e9)
    assert transfer.latency_s.max() == pytest.approx(2 * 3 * 3 * 1e-6)
    assert np.ptp(transfer.load) == pytest.approx(0, abs=1e-6)


def test_full_mesh_uses_all_links(fabrics):
    network = build_network(fabrics.mesh(8, capacity=64e9))
    assert collectives.all_reduce(network, np.arange(8), S).wire_s == pytest.approx(2 * S / 8 / 64e9)


def test_groups_are_one_collective_and_wait_for_their_own_members_only(eight):
    transfer = collectives.all_reduce(eight, np.arange(8).reshape(4, 2), S)
    assert transfer.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    finish = transfer.alone(np.array([0, 0, 5e-3, 0, 0, 0, 0, 0]))
    assert finish[2] == finish[3] > 5e-3
    assert finish[0] == finish[4] < 1e-3


def test_ranks_with_less_traffic_finish_earlier(eight):
    traffic = np.zeros((8, 8))
    traffic[:, 0] = 8e5  # everybody sends to the hot rank 0 …
    traffic[1, 2] = traffic[2, 1] = 1e5  # … and two ranks a little to each other
    transfer = collectives.all_to_all(eight, np.arange(8), traffic)
    assert transfer.wire_s == pytest.approx(7 * 8e5 / 800e9)
    assert transfer.arrived[0] == 1
    assert transfer.arrived[3] == pytest.approx(1 / 7)  # receives nothing: done when its 8e5 have left
    assert transfer.arrived[1] == transfer.arrived[2] == pytest.approx(9 / 8 / 7)  # 9e5 bytes through the sender's port


def test_point_to_point_pairs_do_not_wait_for_each_other(eight):
    transfer = collectives.point_to_point(eight, [0, 1, 2], [4, 5, 4], [8e8, 8e7, 8e8])
    assert transfer.ranks.tolist() == [0, 1, 2, 4, 5]
    assert transfer.group[0] == transfer.group[2] == transfer.group[3] != transfer.group[1]
    assert transfer.wire_s == pytest.approx(2e-3)
    assert transfer.arrived.tolist() == pytest.approx([1, 0.05, 1, 1, 0.05])


def test_pairwise_rounds_add_up_their_slowest_pairs(eight):
    traffic = np.random.default_rng(0).random((8, 8)) * 1e6
    transfer = collectives.all_to_all(eight, np.arange(8), traffic, algorithm="pairwise")
    rank = np.arange(8)
    slowest = sum(traffic[rank, (rank + r) % 8].max() for r in range(1, 8))
    assert transfer.wire_s == pytest.approx(slowest / 800e9)


def test_two_hops_gather_traffic_for_the_same_place_before_crossing(fabrics):
    network = build_network(fabrics.rails(2, size=4, unit=2))
    traffic = np.ones((8, 8)) * 1e6
    flat = collectives.all_to_all(network, np.arange(8), traffic)
    hops = collectives.all_to_all(network, np.arange(8), traffic, algorithm="two_hop")
    # The NIC carries 4 MB from the same place of all sources; NVLink before it 3 x 2 MB.
    assert hops.wire_s == pytest.approx(6e6 / 450e9 + 4e6 / 50e9)
    assert hops.wire_s > flat.wire_s


@given(
    fabric=st.sampled_from(["nvlink", "torus", "rails", "mesh"]),
    algorithm=st.sampled_from(collectives.ALL_TO_ALL),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_bytes_sent_are_bytes_received(fabrics, fabric, algorithm, seed):
    build = {"nvlink": (6,), "torus": ((2, 3),), "rails": (3, 2), "mesh": (6,)}
    network = build_network(getattr(fabrics, fabric)(*build[fabric]))
    traffic = np.random.default_rng(seed).pareto(1.0, (6, 6)) * 1e5
    transfer = collectives.all_to_all(network, np.arange(6), traffic, algorithm=algorithm)
    assert transfer.sent.sum() == pytest.approx(transfer.received.sum())
    if algorithm != "two_hop":
        assert np.allclose(transfer.sent, traffic.sum(axis=1) - traffic.diagonal())
        assert np.allclose(transfer.received, traffic.sum(axis=0) - traffic.diagonal())
    assert (transfer.load / network.capacity[transfer.links]).max() <= transfer.wire_s * (1 + 1e-9)


@given(seed=st.integers(0, 2**31), more=st.floats(1, 10))
@settings(max_examples=25, deadline=None)
def test_time_never_falls_when_bytes_grow(fabrics, seed, more):
    network = build_network(fabrics.torus((3, 3)))
    rng = np.random.default_rng(seed)
    traffic = rng.pareto(1.5, (9, 9)) * 1e5
    grown = traffic.copy()
    grown[rng.integers(9), rng.integers(9)] *= more
    small, large = (collectives.all_to_all(network, np.arange(9), t).wire_s for t in (traffic, grown))
    assert large >= small * (1 - 1e-12)


def test_nothing_to_send_takes_no_time(eight):
    transfer = collectives.all_to_all(eight, np.arange(8), np.diag(np.ones(8)))
    assert transfer.wire_s == 0
    assert not transfer.arrived.any()
    assert transfer.links.size == 0
    assert collectives.all_reduce(eight, np.array([3]), S).wire_s == 0


def test_bad_input_says_what_to_write(eight, fabrics):
    ranks = np.arange(8)
    with pytest.raises(InvalidInput, match="give \\[groups, members, members\\]"):
        collectives.all_to_all(eight, ranks, np.ones((4, 4)))
    with pytest.raises(InvalidInput, match="negative or infinite"):
        collectives.all_to_all(eight, ranks, -np.ones((8, 8)))
    with pytest.raises(InvalidInput, match="write one of flat, pairwise, two_hop"):
        collectives.all_to_all(eight, ranks, np.ones((8, 8)), algorithm="telepathy")
    with pytest.raises(InvalidInput, match="write one of ring, tree, nvls"):
        collectives.all_reduce(eight, ranks, S, algorithm="telepathy")
    with pytest.raises(InvalidInput, match="needs a torus"):
        collectives.all_reduce(eight, ranks, S, algorithm="torus")
    with pytest.raises(InvalidInput, match="NVLink switches"):
        collectives.all_reduce(build_network(fabrics.torus((2, 2))), np.arange(4), S, algorithm="nvls")
    with pytest.raises(InvalidInput, match="does not fill a box"):
        collectives.all_reduce(build_network(fabrics.torus((3, 3))), np.array([0, 4, 8]), S, algorithm="torus")
    with pytest.raises(InvalidInput, match="0 … 7"):
        collectives.all_reduce(eight, np.array([0, 8]), S)
    with pytest.raises(InvalidInput, match="rank 1 takes part twice"):
        collectives.all_reduce(eight, np.array([0, 1, 1]), S)
    with pytest.raises(InvalidInput, match="write one of bound, coflow, flow"):
        collectives.all_reduce(eight, ranks, S, fidelity="exact")
