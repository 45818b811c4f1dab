import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from moesim.placement.evidence import Evidence
from moesim.placement.optimum import simple_bound
from moesim.placement.policies import (
    POLICIES,
    contiguous,
    eplb,
    greedy,
    optimal,
    replicate_hot,
    round_robin,
)
from moesim.placement.traffic import layer_traffic


def evidence(load, servers=2, per_server=2, level="node", top_k=2, groups=1):
    """Choices drawn by the loads, and a toll of 1 s a copy on the way out of and into every server."""
    experts, ranks = load.shape[1], servers * per_server
    node = np.repeat(np.arange(servers), per_server)
    rng = np.random.default_rng(0)
    popular = np.log(load + 0.5)
    draws = [np.argsort(-(row + rng.gumbel(size=(64, experts))), axis=1)[:, : min(top_k, experts)] for row in popular]
    toll = np.zeros((servers, ranks, 2 * servers))
    for server in range(servers):
        away = np.flatnonzero(node != server)
        toll[server, away, server] = 1
        toll[server, away, servers + node[away]] = 1
    return Evidence(node, groups, lambda layer: draws[layer], None, level, csr_array(toll.reshape(-1, 2 * servers)))


def test_contiguous_and_round_robin_by_hand():
    load = np.ones((1, 4))
    assert contiguous(load, 2, slots_per_rank=2).expert.tolist() == [[[0, 1], [2, 3]]]
    assert round_robin(load, 2, slots_per_rank=2).expert.tolist() == [[[0, 2], [1, 3]]]


def test_greedy_by_hand():
    # 7, 6, 5, 4, 2, 1: longest first gives 7 + 4 + 2 and 6 + 5 + 1
    placement = greedy(np.array([[1.0, 2, 4, 5, 6, 7]]), 2, slots_per_rank=3)
    assert sorted(map(sorted, placement.expert[0].tolist())) == [[0, 3, 4], [1, 2, 5]]


def test_replicate_hot_by_hand():
    # expert 0 carries half of the load: both spare slots go to it, and its three replicas stand on three ranks
    placement = replicate_hot(np.array([[60.0, 20, 20, 20]]), 3, slots_per_rank=2)
    assert placement.replicas.tolist() == [[3, 1, 1, 1]]
    assert placement.rank_load(np.array([[60.0, 20, 20, 20]])).tolist() == [[40, 40, 40]]


def test_eplb_keeps_groups_in_a_server_and_replicates_there():
    # groups {0 1}, {2 3}, {4 5}, {6 7} weigh 20, 6, 4, 14: servers get 20 + 4 and 14 + 6
    load = np.array([[18.0, 2, 3, 3, 2, 2, 7, 7]])
    placement = eplb(load, 4, evidence(load, groups=4), slots_per_rank=3)
    servers = [set(placement.expert[0, ranks].ravel().tolist()) for ranks in ([0, 1], [2, 3])]
    assert servers == [{0, 1, 4, 5}, {2, 3, 6, 7}]
    # two spare slots a server: 18 → 9 + 9, then the first of the experts with 2; 7 and 7 on the other
    assert placement.replicas[0].tolist() == [2, 2, 1, 1, 1, 1, 2, 2]


def test_eplb_is_global_where_servers_do_not_divide_the_groups():
    load = np.array([[18.0, 2, 3, 3, 2, 2, 7, 7]])
    alone = replicate_hot(load, 4, slots_per_rank=3)
    assert (eplb(load, 4, evidence(load, groups=1), slots_per_rank=3).expert == alone.expert).all()


def test_affinity_brings_experts_together_that_are_chosen_together():
    # tokens choose {0, 4}, {1, 5}, {2, 6} or {3, 7}; contiguous experts put each pair on two servers
    pairs = np.array([[0, 4], [1, 5], [2, 6], [3, 7]] * 16)
    known = dataclasses.replace(evidence(np.ones((1, 8))), sample=lambda layer: pairs)
    placement = POLICIES["affinity"](np.full((1, 8), 16.0), 4, known, slots_per_rank=2)
    server = placement.slot_of[0, :, 0] // 4
    assert (server[:4] == server[4:]).all()


def test_topology_aware_moves_hot_experts_off_a_slow_server():
    rng = np.random.default_rng(1)
    load = rng.lognormal(0, 0.8, (1, 16)) * 100
    known = evidence(load, level="expert")
    slow = csr_array(known.toll.toarray() * [1, 1, 10, 1])  # the way into server 0
    ranks = {
        name: POLICIES["topology_aware"](load, 4, dataclasses.replace(known, toll=toll), slots_per_rank=4, slack=0.3)
        for name, toll in (("equal", known.toll), ("slow", slow))
    }
    taken = {name: placement.rank_load(load)[0, :2].sum() for name, placement in ranks.items()}
    assert taken["slow"] < 0.95 * taken["equal"]


def test_too_few_slots_is_an_error_that_says_how_many():
    for policy in POLICIES.values():
        with pytest.raises(ValueError, match="at least 3 slots"):
            policy(np.ones((1, 5)), 2, slots_per_rank=2)


@pytest.mark.parametrize("policy", ["affinity", "topology_aware"])
def test_loads_alone_do_not_tell_what_is_chosen_together(policy):
    with pytest.raises(ValueError, match="needs a trace of choices"):
        POLICIES[policy](np.ones((1, 4)), 2, slots_per_rank=2)


def test_the_optimum_is_for_small_cases():
    with pytest.raises(ValueError, match="optimal is for small cases: 256 experts on 32 ranks"):
        optimal(np.ones((1, 256)), 32, slots_per_rank=9)


@settings(max_examples=25)
@given(st.data(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2))
def test_every_expert_is_placed_once_a_rank_and_nothing_beats_the_optimum(data, servers, per_server, slots, layers):
    ranks = servers * per_server
    experts = data.draw(st.integers(slots, ranks * slots))
    loads = st.lists(st.integers(0, 99), min_size=experts, max_size=experts)
    load = np.array(data.draw(st.lists(loads, min_size=layers, max_size=layers)))
    level = data.draw(st.sampled_from(["expert", "rank", "node"]))
    hottest = {}
    for name, policy in POLICIES.items():
        placement = policy(load, ranks, evidence(load, servers, per_server, level), slots_per_rank=slots)
        assert placement.expert.shape == (layers, ranks, slots)
        assert (placement.replicas >= 1).all()
        assert (placement.replicas.sum(axis=1) == ranks * slots).all()
        for layer in range(layers):
            for expert in range(experts):
                held = placement.slot_of[layer, expert, : placement.replicas[layer, expert]]
                assert (placement.expert[layer].ravel()[held] == expert).all()
                assert len(set(held)) == len(held)
            assert all(len(set(held)) == slots for held in placement.expert[layer].tolist()), name
        np.testing.assert_allclose(placement.rank_load(load).sum(axis=1), load.sum(axis=1))
        hottest[name] = placement.rank_load(load).max(axis=1)
    bound = simple_bound(load, ranks, slots)
    for peak in hottest.values():
        assert (hottest["optimal"] <= peak + 1e-6).all()
        assert (bound <= peak + 1e-6).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(POLICIES.keys() - {"optimal"})), st.booleans())
def test_the_ranks_of_every_server_or_whole_servers_may_change_places(seed, name, whole):
    load = np.random.default_rng(seed).lognormal(0, 0.8, (1, 12))
    known = evidence(load)
    placement = POLICIES[name](load, 4, known, slots_per_rank=3)
    order = np.array([2, 3, 0, 1] if whole else [1, 0, 3, 2])  # either is its own inverse
    moved = dataclasses.replace(placement, expert=placement.expert[:, order])
    np.testing.assert_allclose(moved.rank_load(load)[:, order], placement.rank_load(load))
    ids, source = known.sample(0), np.repeat(np.arange(4), 16)
    swapped = np.argsort(order[source], kind="stable")  # the tokens of a rank go where its experts went
    for level in ("expert", "rank", "node"):
        before = layer_traffic(placement, 0, ids, source, level=level, node=known.node).copies
        after = layer_traffic(moved, 0, ids[swapped], order[source][swapped], level=level, node=known.node).copies
        assert (after[order][:, order] == before).all()


def test_replicas_flatten_skewed_loads():
    rng = np.random.default_rng(0)
    load = rng.lognormal(0, 0.8, size=(58, 256))
    plain = contiguous(load, 32, slots_per_rank=8).rank_load(load)
    flat = replicate_hot(load, 32, slots_per_rank=9).rank_load(load)
    assert (plain.max(axis=1) / plain.mean(axis=1)).mean() > 1.5
    assert (flat.max(axis=1) / flat.mean(axis=1)).mean() < 1.05
