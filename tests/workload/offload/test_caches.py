"""Cache policies on sequences worked out by hand, and what must hold on any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.workload.offload.caches import CACHES, best_slots, replay_cache


def touched(*steps, slots=4):
    """[step, 1, 1, slot] from the experts that each step uses."""
    used = np.zeros((len(steps), 1, 1, slots), dtype=bool)
    for step, experts in enumerate(steps):
        used[step, 0, 0, list(experts)] = True
    return used


def replayed(kind, used, capacity):
    """Slots are the more popular the lower their number."""
    popularity = np.broadcast_to(np.arange(used.shape[-1], 0, -1.0), used.shape[1:])
    return replay_cache(used, popularity, np.full(used.shape[1], capacity), CACHES[kind])


# Two experts fit, and every cache starts with the most popular, 0 and 1. In brackets: what is there before each step.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("lru", [1, 0, 0, 0, 1, 0]),  # [01] 0 [01] 2 [02] 3 [23] 0 [30] 0 [30] 1
        ("lfu", [1, 0, 0, 1, 1, 0]),  # [01] 0 [01] 2 [02] 3 [02] 0 [02] 0 [02] 1: ties go to the more popular
        ("pinned_popular", [1, 0, 0, 1, 1, 1]),  # [01] throughout
        ("belady", [1, 0, 0, 1, 1, 1]),  # [01] throughout: 2 and 3 never come back
    ],
)
def test_a_sequence_by_hand(kind, expected):
    found = replayed(kind, touched({0}, {2}, {3}, {0}, {0}, {1}), capacity=2)
    assert found.hits.sum(axis=(1, 2, 3)).tolist() == expected
    assert (found.hits ^ found.misses == found.touched).all()


def test_a_step_may_use_more_experts_than_fit():
    found = replayed("lru", touched({0, 1, 2}, {0, 1, 2}, {3}), capacity=2)
    assert found.hits.sum(axis=(1, 2, 3)).tolist() == [2, 2, 0]


def test_no_room_means_no_hits():
    assert not replayed("belady", touched({0}, {0}), capacity=0).hits.any()


def test_the_best_slots_are_allowed_ones():
    chosen = best_slots(np.array([5, 9, 7, 8]), np.array([True, False, True, True]), most=2)
    assert chosen.tolist() == [False, False, True, True]
    assert best_slots(np.array([1, 2]), np.array([False, True]), most=2).tolist() == [False, True]


@st.composite
def replays(draw):
    """Touched [step, layer, rank, slot] of a few layers and ranks."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 2), st.integers(1, 2), st.integers(2, 6)))
    bits = draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.array(bits).reshape(shape)


@given(replays(), st.integers(0, 6))
def test_nobody_hits_more_often_than_the_clairvoyant(used, capacity):
    best = replayed("belady", used, capacity).hits.sum(axis=(0, 3))  # [layer, rank]
    for kind in CACHES:
        assert (replayed(kind, used, capacity).hits.sum(axis=(0, 3)) <= best).all(), kind


@given(replays(), st.integers(0, 5))
def test_a_larger_cache_hits_at_least_as_often(used, capacity):
    for kind in CACHES:
        small, large = (replayed(kind, used, size).hits.sum() for size in (capacity, capacity + 1))
        assert small <= large, kind


@given(replays(), st.integers(0, 6))
def test_a_cache_never_holds_more_than_fits_nor_what_nobody_brought(used, capacity):
    for kind in CACHES:
        found = replayed(kind, used, capacity)
        assert (found.resident.sum(axis=3) <= capacity).all()
        seen = np.maximum.accumulate(used, axis=0)
        assert not (found.resident[1:] & ~found.resident[0] & ~seen[:-1]).any()


def brute_force(used, capacity, resident, step=0):
    """Most hits from a step on, trying everything that may be kept of one layer of one rank. used: [step, slot]."""
    if step == len(used):
        return 0
    wanted = set(np.flatnonzero(used[step]))
    pool = sorted(resident | wanted)
    from itertools import combinations

    kept = [set(c) for size in range(min(capacity, len(pool)) + 1) for c in combinations(pool, size)]
    return len(wanted & resident) + max(brute_force(used, capacity, k, step + 1) for k in kept)


@given(st.lists(st.sets(st.integers(0, 3), max_size=3), min_size=1, max_size=4), st.integers(1, 2))
def test_the_clairvoyant_is_as_good_as_trying_everything(steps, capacity):
    used = touched(*steps)
    assert replayed("belady", used, capacity).hits.sum() == brute_force(used[:, 0, 0], capacity, set(range(capacity)))
