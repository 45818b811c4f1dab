"""Placements that lose ranks: replicas take over, lost experts are named, refilled slots serve everyone again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.placement.loss import lose_ranks, refill
from moesim.placement.policies import POLICIES


def replicated(experts=16, ranks=8, slots=3, seed=0):
    load = np.random.default_rng(seed).lognormal(sigma=1.0, size=(2, experts))
    return POLICIES["replicate_hot"](load, ranks, slots_per_rank=slots)


def test_a_dead_ranks_slots_serve_nobody_whose_expert_stands_elsewhere():
    placement = replicated()
    without, lost = lose_ranks(placement, (3,))
    ranks = without.slot_of // without.slots_per_rank
    for layer, expert in np.argwhere(~lost):
        assert 3 not in ranks[layer, expert, : without.replicas[layer, expert]]
    assert (without.replicas[lost] >= 1).all()


def test_refilled_slots_serve_every_expert_from_ranks_that_live():
    without, lost = lose_ranks(replicated(), (3,))
    filled, moved = refill(without)
    assert moved == lost.sum() > 0
    ranks = filled.slot_of // filled.slots_per_rank
    counted = np.arange(ranks.shape[2]) < filled.replicas[..., None]
    assert not (ranks[counted] == 3).any()


def test_without_replicas_there_is_no_slot_for_a_lost_expert():
    plain = POLICIES["contiguous"](np.ones((1, 16)), 8, slots_per_rank=2)
    with pytest.raises(ValueError, match="layer 0 has no slot of a replica left for expert 6"):
        refill(lose_ranks(plain, (3,))[0])


@given(seed=st.integers(0, 50), dead=st.sets(st.integers(0, 7), min_size=1, max_size=2))
def test_lost_experts_are_those_that_stand_on_dead_ranks_alone(seed, dead):
    placement = replicated(seed=seed)
    _, lost = lose_ranks(placement, tuple(dead))
    alive = [rank for rank in range(8) if rank not in dead]
    for layer in range(2):
        assert set(np.flatnonzero(~lost[layer])) == set(placement.expert[layer, alive].ravel().tolist())
