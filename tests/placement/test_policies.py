import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.placement.policies import POLICIES, contiguous, replicate_hot, round_robin


def rank_load(placement, load):
    share = load / placement.replicas
    layer = np.arange(load.shape[0])[:, None, None]
    return share[layer, placement.expert].sum(axis=2)


def test_contiguous_and_round_robin_by_hand():
    load = np.ones((1, 4))
    assert contiguous(load, 2, slots_per_rank=2).expert.tolist() == [[[0, 1], [2, 3]]]
    assert round_robin(load, 2, slots_per_rank=2).expert.tolist() == [[[0, 2], [1, 3]]]


def test_replicate_hot_by_hand():
    # expert 0 carries half of the load: both spare slots go to it, and its three replicas stand on three ranks
    placement = replicate_hot(np.array([[60.0, 20, 20, 20]]), 3, slots_per_rank=2)
    assert placement.replicas.tolist() == [[3, 1, 1, 1]]
    assert rank_load(placement, np.array([[60.0, 20, 20, 20]])).tolist() == [[40, 40, 40]]


def test_too_few_slots_is_an_error_that_says_how_many():
    for policy in POLICIES.values():
        with pytest.raises(ValueError, match="at least 3 slots"):
            policy(np.ones((1, 5)), 2, slots_per_rank=2)


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
def test_every_expert_is_placed_and_replicas_never_add_load(data, ranks, slots, layers):
    experts = data.draw(st.integers(slots, ranks * slots))
    load = np.array(
        data.draw(
            st.lists(st.lists(st.integers(0, 99), min_size=experts, max_size=experts), min_size=layers, max_size=layers)
        )
    )
    for policy in POLICIES.values():
        placement = policy(load, ranks, slots_per_rank=slots)
        assert placement.expert.shape == (layers, ranks, slots)
        assert (placement.replicas >= 1).all()
        assert (placement.replicas.sum(axis=1) == ranks * slots).all()
        for layer in range(layers):
            for expert in range(experts):
                held = placement.slot_of[layer, expert, : placement.replicas[layer, expert]]
                assert (placement.expert[layer].ravel()[held] == expert).all()
                assert len(set(held)) == len(held)
        np.testing.assert_allclose(rank_load(placement, load).sum(axis=1), load.sum(axis=1))


def test_replicas_flatten_skewed_loads():
    rng = np.random.default_rng(0)
    load = rng.lognormal(0, 0.8, size=(58, 256))
    plain = rank_load(contiguous(load, 32, slots_per_rank=8), load)
    flat = rank_load(replicate_hot(load, 32, slots_per_rank=9), load)
    assert (plain.max(axis=1) / plain.mean(axis=1)).mean() > 1.5
    assert (flat.max(axis=1) / flat.mean(axis=1)).mean() < 1.05
