import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement.migration import align, holdings, moves
from moesim.placement.placement import Placement
from moesim.placement.policies import random


def placement(*ranks):
    expert = np.array([ranks])
    return Placement("by hand", expert, int(expert.max()) + 1)


def test_weights_come_from_a_rank_of_the_same_server_if_one_holds_them():
    # expert 1 goes to rank 1, which has rank 0 beside it; expert 0 to rank 3, from rank 2 and not from 0 or 1
    old, new = placement([0, 1], [0, 2], [0, 3], [4, 3]), placement([0, 1], [1, 2], [0, 3], [4, 0])
    traffic = moves(old, new, np.array([0, 0, 1, 1]), np.array([10.0]))
    assert {(int(s), int(t)): traffic[s, t] for s, t in np.argwhere(traffic)} == {(0, 1): 10, (2, 3): 10}


def test_ranks_that_are_alike_are_renamed_so_that_experts_stay():
    old, new = placement([0, 1], [2, 3], [4, 5]), placement([4, 5], [0, 1], [2, 3])
    everywhere = dataclasses.replace(new, expert=align(old, new, np.zeros(3, int)))
    assert moves(old, everywhere, np.zeros(3, int), np.ones(1)).sum() == 0
    inside = dataclasses.replace(new, expert=align(old, new, np.array([0, 0, 1])))
    assert inside.expert.tolist() == [[[0, 1], [4, 5], [2, 3]]]


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 4))
def test_every_missing_expert_arrives_once_from_a_rank_that_held_it(seed, servers, per_server):
    ranks, slots, layers = servers * per_server, 2, 2
    load = np.ones((layers, ranks * slots - (ranks > 1)))
    node = np.repeat(np.arange(servers), per_server)
    old, new = (
        random(load, ranks, None, slots_per_rank=slots),
        random(load[:, ::-1], ranks, None, slots_per_rank=slots),
    )
    order = np.random.default_rng(seed).permutation(ranks)
    new = dataclasses.replace(new, expert=new.expert[:, order])
    size = np.array([3.0, 5.0])
    traffic = moves(old, new, node, size)
    missing = (holdings(new) & ~holdings(old)).sum(axis=2)  # [layer, rank]
    np.testing.assert_allclose(traffic.sum(axis=0), size @ missing)
    assert not traffic.diagonal().any()
    aligned = dataclasses.replace(new, expert=align(old, new, node))
    assert moves(old, aligned, node, size).sum() <= traffic.sum()
    assert np.array_equal(np.sort(aligned.rank_load(load)), np.sort(new.rank_load(load)))
