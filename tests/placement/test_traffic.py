import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement.placement import Placement
from moesim.placement.policies import contiguous, replicate_hot
from moesim.placement.replicas import CHOICES
from moesim.placement.traffic import LEVELS, choose_slots, layer_traffic


def test_copies_by_hand_at_each_level():
    # four ranks on two servers, one expert each; one token on rank 0 chooses the experts of ranks 1, 2 and 3
    placement = contiguous(np.ones((1, 8)), 4, slots_per_rank=2)
    ids, source, node = np.array([[2, 4, 5, 6]]), np.array([0]), np.array([0, 0, 1, 1])

    def pairs(level):
        traffic = layer_traffic(placement, 0, ids, source, level=level, node=node)
        assert traffic.tokens.ravel().tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
        assert traffic.entering.tolist() == ([0, 1, 2, 1] if level == "expert" else [0, 1, 1, 1])
        return {(int(s), int(d)): int(traffic.copies[s, d]) for s, d in np.argwhere(traffic.copies)}

    assert pairs("expert") == {(0, 1): 1, (0, 2): 2, (0, 3): 1}
    assert pairs("rank") == {(0, 1): 1, (0, 2): 1, (0, 3): 1}
    # one copy crosses to rank 2, the peer of rank 0, which keeps one and hands one to rank 3
    assert pairs("node") == {(0, 1): 1, (0, 2): 1, (2, 2): 1, (2, 3): 1}


@pytest.mark.parametrize("level", LEVELS)
def test_choices_beyond_a_tokens_count_are_neither_sent_nor_computed(level):
    placement = contiguous(np.ones((1, 4)), 4, slots_per_rank=1)
    ids, source, node = np.array([[1, 2], [3, 0], [2, 1]]), np.array([0, 0, 1]), np.array([0, 0, 1, 1])
    traffic = layer_traffic(placement, 0, ids, source, level=level, node=node, count=np.array([1, 0, 2]))
    assert traffic.tokens.ravel().tolist() == [0, 2, 1, 0]
    pairs = {(int(s), int(d)) for s, d in np.argwhere(traffic.copies)}
    assert pairs == ({(0, 1), (1, 1), (1, 2)} if level != "node" else {(0, 1), (1, 1), (1, 3), (3, 2)})


def test_replicas_take_turns():
    placement = replicate_hot(np.array([[9.0, 1.0]]), 3, slots_per_rank=1)
    chosen = choose_slots(placement, 0, np.zeros((6, 1), dtype=np.uint8))
    assert np.bincount(chosen.ravel()).max() == 3


def test_an_unknown_level_is_named():
    placement = contiguous(np.ones((1, 2)), 2, slots_per_rank=1)
    with pytest.raises(ValueError, match="'token' is not one of expert, rank, node"):
        layer_traffic(placement, 0, np.array([[0]]), np.array([0]), level="token", node=np.zeros(2, int))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
def test_coarser_levels_send_no_more_across_servers(seed, servers, per_server):
    rng = np.random.default_rng(seed)
    ranks = servers * per_server
    placement = contiguous(np.ones((1, 12 * ranks)), ranks, slots_per_rank=12)
    ids = np.argsort(rng.random((20, 12 * ranks)), axis=1)[:, :4]
    source = np.sort(rng.integers(0, ranks, 20))
    node = np.repeat(np.arange(servers), per_server)
    apart = node[:, None] != node[None, :]
    across = []
    for level in LEVELS:
        traffic = layer_traffic(placement, 0, ids, source, level=level, node=node)
        assert traffic.tokens.sum() == ids.size
        across.append(traffic.copies[apart].sum())
    assert across[0] >= across[1] >= across[2]
    reached = len({(t, node[r]) for t in range(20) for r in ids[t] // 12 if node[r] != node[source[t]]})
    assert across[2] == reached


def replicated():
    """Expert 0 on ranks 0, 1 and 2, expert 1 on rank 3; servers of two ranks."""
    return Placement("by hand", np.array([[[0], [0], [0], [1]]]), 2)


def test_the_nearest_replica_is_on_the_rank_then_in_the_server_then_anywhere():
    placement = dataclasses.replace(replicated(), choice="nearest")
    source, node = np.array([0, 1, 2, 3, 3]), np.array([0, 0, 1, 1])
    chosen = choose_slots(placement, 0, np.zeros((5, 1), dtype=np.uint8), source, node)
    assert chosen.ravel().tolist() == [0, 1, 2, 2, 2]
    apart = choose_slots(placement, 0, np.zeros((3, 1), dtype=np.uint8), np.full(3, 3), np.array([0, 0, 0, 1]))
    assert sorted(apart.ravel().tolist()) == [0, 1, 2]


def test_the_least_loaded_replicas_fill_up_to_one_level():
    # expert 1 gives rank 1 two tokens; the six of expert 0 go 4 : 2 to ranks 0 and 1
    placement = Placement("by hand", np.array([[[0, 2], [0, 1]]]), 3, choice="least_loaded")
    ids = np.array([[0, 1], [0, 1], [0, 2], [0, 2], [0, 2], [0, 1]])
    traffic = layer_traffic(placement, 0, ids, np.zeros(6, int), level="expert", node=np.zeros(2, int))
    assert traffic.tokens.sum(axis=1).tolist() == [6, 6]
    assert traffic.tokens[:, 0].tolist() == [3, 3]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(CHOICES)))
def test_every_choice_serves_each_token_by_a_replica_of_its_expert(seed, choice):
    rng = np.random.default_rng(seed)
    load = rng.lognormal(0, 1, (1, 10))
    placement = dataclasses.replace(replicate_hot(load, 4, slots_per_rank=4), choice=choice, seed=seed)
    ids = np.argsort(rng.random((50, 10)) ** (1 / load), axis=1)[:, -3:]
    source, node = np.sort(rng.integers(0, 4, 50)), np.array([0, 0, 1, 1])
    count = rng.integers(0, 4, 50)
    held = np.arange(3) < count[:, None]
    slots = choose_slots(placement, 0, ids, source, node, held)
    assert (placement.expert[0].ravel()[slots] == ids)[held].all()
    traffic = layer_traffic(placement, 0, ids, source, level="rank", node=node, count=count)
    assert traffic.tokens.sum() == count.sum()
    hottest = {each: _hottest(placement, each, ids, source, node) for each in CHOICES}
    assert hottest["least_loaded"] <= hottest["round_robin"] + 2


def _hottest(placement, choice, ids, source, node):
    placement = dataclasses.replace(placement, choice=choice)
    return layer_traffic(placement, 0, ids, source, level="rank", node=node).tokens.sum(axis=1).max()
