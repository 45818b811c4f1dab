"""The three fidelities: they agree where they must, and share links without breaking them."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from moesim.network import collectives, maxmin
from moesim.network.coflow import demands
from moesim.network.fidelity import FIDELITIES
from moesim.network.routes import build_network

TORI = [(2, 2), (2, 4), (3, 4), (4, 4), (2, 2, 2), (2, 2, 4), (2, 3, 4), (3, 3, 3), (4, 4, 4)]


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


@st.composite
def recipes(draw):
    """(fabric, its arguments) of up to 64 ranks, (traffic, its tail), and a seed."""
    fabric = draw(st.sampled_from(["nvlink", "torus", "rails", "pcie", "mesh", "graph"]))
    given = {}
    if fabric == "nvlink":
        size, given = draw(st.sampled_from([4, 8, 16, 32, 64])), {"planes": draw(st.integers(1, 4))}
    elif fabric == "torus":
        size = draw(st.sampled_from(TORI))
        given["ties"] = draw(st.sampled_from(["split", "one_way"]))
        given["wrap"] = draw(st.none() | st.tuples(*[st.booleans()] * len(size)))
    elif fabric == "rails":
        size, given["size"] = draw(st.sampled_from([(2, 2), (2, 4), (2, 8), (4, 4), (4, 8)]))
        given |= {"spreading": draw(st.sampled_from(["adaptive", "ecmp"])), "forwarding": draw(st.booleans())}
    elif fabric == "graph":
        size, given["seed"] = draw(st.integers(3, 24)), draw(st.integers(0, 2**16))
    else:
        size = draw(st.integers(3, 8))
    traffic = draw(st.sampled_from(["uniform", "routed", "lognormal", "pareto", "sparse"]))
    tail = draw(st.sampled_from([0.5, 1, 1.5, 2] if traffic == "lognormal" else [1.1, 1.5, 2]))
    return fabric, size, given, traffic, tail, draw(st.integers(0, 2**32))


def made_traffic(kind, tail, ranks, rng):
    """Bytes [source, target]: uniform, as routers make it, or independent pairs with heavy tails."""
    shape = (ranks, ranks)
    traffic = {
        "uniform": lambda: rng.uniform(0, 1e6, shape),
        "routed": lambda: routed_traffic(rng, ranks),
        "lognormal": lambda: rng.lognormal(0, tail, shape) * 1e6,
        "pareto": lambda: rng.pareto(tail, shape) * 1e6,
        "sparse": lambda: rng.pareto(tail, shape) * (rng.random(shape) < 0.3) * 1e6,
    }[kind]()
    np.fill_diagonal(traffic, 0)
    return traffic


def test_coflow_is_within_ten_percent_of_flow_always_and_five_nearly_always(fabrics):
    """200 cases of any fabric and any traffic, wild pairs included."""
    excess, sizes = [], []

    @given(recipe=recipes())
    @settings(max_examples=200, deadline=None, database=None, phases=[Phase.generate])
    def agree(recipe):
        fabric, size, arguments, kind, tail, seed = recipe
        network = build_network(getattr(fabrics, fabric)(size, **arguments))
        traffic = made_traffic(kind, tail, network.ranks, np.random.default_rng(seed))
        if not traffic.any():
            return
        made = {f: collectives.all_to_all(network, np.arange(network.ranks), traffic, fidelity=f) for f in FIDELITIES}
        low, coarse, fine = (made[f].wire_s for f in ("bound", "coflow", "flow"))
        assert low <= coarse * (1 + 1e-9)
        assert coarse <= fine * 1.005  # both follow flows in steps
        assert fine <= coarse * 1.10
        assert ((made["coflow"].arrived > 0) == (made["flow"].arrived > 0)).all()
        excess.append(fine / coarse - 1)
        sizes.append(network.ranks)

    agree()
    assert len(excess) >= 190
    assert max(sizes) == 64
    assert np.quantile(excess, 0.9) <= 0.05


def test_heavy_messages_that_wait_for_light_ones_take_longer_than_any_link(fabrics):
    """Exact: f (0 to 4) and g (3 to 5) move 300 bytes each and share the link 3 to 4; each also shares a link of its
    own with three light messages of 100 bytes. At 25 bytes/s for 4 s all light ones are through and the shared link was
    half idle; the 200 bytes left of f and g take 4 s more. No link has more than 600 bytes, 6 s.
    """
    fat = [(f"device{end}", "x", 1e6) for end in range(3)] + [("y", f"device{end}", 1e6) for end in (5, 6, 7)]
    slow = [("x", "device3", 100.0), ("device3", "device4", 100.0), ("device4", "y", 100.0)]
    network, traffic = build_network(fabrics.wires(8, fat + slow)), np.zeros((8, 8))
    traffic[[0, 3], [4, 5]] = 300
    traffic[[0, 1, 2, 4, 4, 4], [3, 3, 3, 5, 6, 7]] = 100
    made = {f: collectives.all_to_all(network, np.arange(8), traffic, fidelity=f) for f in FIDELITIES}
    assert made["bound"].wire_s == 6.0
    assert made["flow"].wire_s == pytest.approx(8.0, rel=1e-3)
    assert 8.0 / 1.02 <= made["coflow"].wire_s * (1 + 1e-9) <= 8.0
    ends = made["coflow"].arrived * made["coflow"].wire_s
    assert ends[[6, 7]].tolist() == pytest.approx([4 / 1.02] * 2)


def test_sixty_four_ranks_agree_as_well(fabrics):
    network = build_network(fabrics.nvlink(64))
    traffic = routed_traffic(np.random.default_rng(2), 64)
    coarse, fine = (collectives.all_to_all(network, np.arange(64), traffic, fidelity=f) for f in ("coflow", "flow"))
    assert coarse.wire_s <= fine.wire_s <= 1.05 * coarse.wire_s
    assert np.abs(coarse.arrived - fine.arrived).max() < 0.05


def test_fair_rates_of_three_flows_on_two_links():
    from scipy.sparse import csr_array

    share = csr_array(np.array([[1.0, 0], [1, 1], [0, 1]]))
    assert maxmin.fair_rates(share, np.array([10.0, 100.0])).tolist() == [5, 5, 95]
    ends = maxmin.drain(share, np.array([50.0, 50.0, 9500.0]), np.array([10.0, 100.0]), resolution=0)
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
