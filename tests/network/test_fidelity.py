"""The three fidelities: they agree where they must, and share links without breaking them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.network import collectives, flow
from moesim.network.coflow import demands
from moesim.network.fidelity import FIDELITIES
from moesim.network.routes import build_network


def random_network(fabrics, rng):
    kind = rng.integers(5)
    if kind == 0:
        return fabrics.nvlink(int(rng.choice([4, 8, 16, 32])))
    if kind == 1:
        return fabrics.torus(tuple(int(n) for n in rng.choice([2, 3, 4], 3)))
    if kind == 2:
        return fabrics.torus(tuple(int(n) for n in rng.choice([2, 4, 5], 2)), wrap=(False, bool(rng.integers(2))))
    if kind == 3:
        return fabrics.rails(int(rng.choice([2, 4])), size=int(rng.choice([2, 4])))
    return fabrics.mesh(int(rng.integers(4, 9)), capacity=64e9)


def routed_traffic(rng, ranks):
    """Bytes [source, target] of tokens that choose ranks by a lognormal popularity, as routers do (σ up to 0.9)."""
    popularity = rng.lognormal(0, rng.uniform(0, 0.9), ranks)
    tokens = rng.integers(16, 512)
    traffic = rng.multinomial(tokens, popularity / popularity.sum(), size=ranks) * 7168.0
    np.fill_diagonal(traffic, 0)
    return traffic


def test_coflow_is_within_five_percent_of_flow_nearly_always_and_never_above_it(fabrics):
    rng = np.random.default_rng(11)
    excess, sizes = [], []
    for _ in range(200):
        network = build_network(random_network(fabrics, rng))
        ranks, traffic = np.arange(network.ranks), routed_traffic(rng, network.ranks)
        if not traffic.any():
            continue
        made = {name: collectives.all_to_all(network, ranks, traffic, fidelity=name) for name in FIDELITIES}
        assert made["bound"].wire_s <= made["coflow"].wire_s <= made["flow"].wire_s * (1 + 1e-9)
        excess.append(made["flow"].wire_s / made["coflow"].wire_s - 1)
        sizes.append(network.ranks)
    assert max(sizes) == 64
    assert np.quantile(excess, 0.9) <= 0.05
    assert max(excess) <= 0.10


def test_coflow_misses_flow_by_more_where_pairs_are_wild(fabrics):
    """Independent heavy-tailed pairs, which no router makes: nine in ten still agree, a few on tori do not."""
    rng, excess = np.random.default_rng(0), []
    for _ in range(100):
        network = build_network(random_network(fabrics, rng))
        traffic = rng.lognormal(0, 1, (network.ranks, network.ranks)) * 1e6
        np.fill_diagonal(traffic, 0)
        coarse, fine = (
            collectives.all_to_all(network, np.arange(network.ranks), traffic, fidelity=f).wire_s
            for f in ("coflow", "flow")
        )
        assert coarse <= fine * (1 + 1e-9)
        excess.append(fine / coarse - 1)
    assert np.quantile(excess, 0.9) <= 0.05
    assert np.quantile(excess, 0.97) <= 0.10
    assert max(excess) <= 0.25


def test_sixty_four_ranks_agree_as_well(fabrics):
    network = build_network(fabrics.nvlink(64))
    traffic = routed_traffic(np.random.default_rng(2), 64)
    coarse, fine = (collectives.all_to_all(network, np.arange(64), traffic, fidelity=f) for f in ("coflow", "flow"))
    assert coarse.wire_s <= fine.wire_s <= 1.05 * coarse.wire_s
    assert np.abs(coarse.arrived - fine.arrived).max() < 0.05


def test_fair_rates_of_three_flows_on_two_links():
    from scipy.sparse import csr_array

    share = csr_array(np.array([[1.0, 0], [1, 1], [0, 1]]))
    assert flow.fair_rates(share, np.array([10.0, 100.0])).tolist() == [5, 5, 95]
    ends = flow.drain(share, np.array([50.0, 50.0, 9500.0]), np.array([10.0, 100.0]), resolution=0)
    assert ends.tolist() == pytest.approx([10, 10, 10 + (9500 - 950) / 100])


def pairs_of_collectives(fabrics, seed):
    rng = np.random.default_rng(seed)
    network = build_network(random_network(fabrics, rng))
    ranks = np.arange(network.ranks)
    active = [
        collectives.all_to_all(network, ranks, routed_traffic(rng, network.ranks) + 1, fidelity="flow"),
        collectives.all_reduce(network, ranks, float(rng.uniform(1e4, 1e7)), fidelity="flow"),
        collectives.point_to_point(network, [0], [network.ranks - 1], [1e6], fidelity="flow"),
    ]
    return network, active[: int(rng.integers(2, 4))]


@given(seed=st.integers(0, 2**31), fidelity=st.sampled_from(["coflow", "flow"]))
@settings(max_examples=40, deadline=None)
def test_concurrent_collectives_keep_links_within_capacity_and_none_is_faster_than_alone(fabrics, seed, fidelity):
    network, active = pairs_of_collectives(fabrics, seed)
    speed = FIDELITIES[fidelity].rates(active, network.capacity)
    assert (speed > 0).all()
    assert (speed <= 1).all()
    assert (demands(active, network.capacity).T @ speed <= 1 + 1e-9).all()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_coflow_leaves_no_speed_unused(fabrics, seed):
    """Max-min: whoever is below full speed crosses a full link on which nobody is faster."""
    network, active = pairs_of_collectives(fabrics, seed)
    speed = FIDELITIES["coflow"].rates(active, network.capacity)
    demand = demands(active, network.capacity)
    full = demand.T @ speed > 1 - 1e-9
    for row in np.flatnonzero(speed < 1 - 1e-9):
        mine = full & (demand[row] > 0)
        assert any(speed[row] >= speed[demand[:, link] > 0].max() - 1e-9 for link in np.flatnonzero(mine))


def test_two_equal_collectives_go_at_half_speed(fabrics):
    network = build_network(fabrics.torus((3, 3)))
    made = collectives.all_to_all(network, np.arange(9), np.full((9, 9), 1e6), fidelity="flow")
    for name, expected in (("bound", 1.0), ("coflow", 0.5), ("flow", 0.5)):
        assert FIDELITIES[name].rates([made, made], network.capacity).tolist() == pytest.approx([expected] * 2)


def test_collectives_on_different_links_do_not_disturb_each_other(fabrics):
    network = build_network(fabrics.nvlink(8))
    one, other = (collectives.all_reduce(network, r, 1e6, fidelity="flow") for r in (np.arange(4), np.arange(4, 8)))
    for fidelity in FIDELITIES.values():
        assert fidelity.rates([one, other], network.capacity).tolist() == pytest.approx([1, 1])
