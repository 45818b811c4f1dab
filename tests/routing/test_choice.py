"""Choices with a wanted load, and under group limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing.choice import draw_independent, inclusion, steer, top_k


def test_top_k_takes_the_best():
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert np.sort(top_k(scores, 2)).tolist() == [[1, 3], [0, 1]]


def test_group_limits_follow_the_two_best_of_each_group():
    # Groups of three: sums of the two best are 9 + 0, 5 + 5, 8 + 3; two groups stay, so the 9 may not be chosen.
    scores = np.array([[9.0, 0, 0, 5, 5, 0, 8, 3, 0]])
    assert np.sort(top_k(scores, 3, groups=3, kept_groups=2)).tolist() == [[3, 4, 6]]
    assert np.sort(top_k(scores, 3, groups=3, kept_groups=3)).max() == 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=40).filter(lambda load: sum(load) > 0), st.integers(1, 4))
def test_inclusion_sums_to_k_and_never_passes_one(load, k):
    share = inclusion(np.array(load), k)
    assert (share <= 1).all()
    assert (share >= 0).all()
    assert share.sum() == pytest.approx(min(k, 0.995 * len(load)))


def test_inclusion_keeps_ratios_where_it_can():
    assert inclusion(np.array([1.0, 1, 2]), 1) == pytest.approx([0.25, 0.25, 0.5])
    assert inclusion(np.array([100.0, 1, 3]), 2) == pytest.approx([0.995, 1.005 / 4, 1.005 * 3 / 4])


def test_independent_choices_have_the_wanted_load_and_differ_in_a_row():
    load = np.exp(np.random.default_rng(0).normal(0, 0.8, (2, 32)))
    ids = draw_independent(load, 4, 20_000, np.random.default_rng(1))
    assert ids.shape == (20_000, 2, 4)
    assert (np.diff(np.sort(ids, axis=-1), axis=-1) > 0).all()
    for layer in range(2):
        share = np.bincount(ids[:, layer].ravel(), minlength=32) / 20_000
        wanted = inclusion(load[layer], 4)
        assert np.abs(share - wanted).max() < 5 * np.sqrt(wanted.max() / 20_000)


def test_independent_choices_pair_up_any_two_experts():
    ids = draw_independent(np.ones((1, 8)), 2, 20_000, np.random.default_rng(1))[:, 0]
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (ids[:, 0], ids[:, 1]), 1)
    pairs += pairs.T
    assert pairs[~np.eye(8, dtype=bool)].min() > 0.7 * 20_000 / 28


@pytest.mark.parametrize("dimension", [4, 12])
@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2)])
def test_steering_meets_the_wanted_load(groups, kept, dimension):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((dimension, 32))
    scores = rng.standard_normal((8192, dimension)) @ (directions / np.linalg.norm(directions, axis=0))
    wanted = inclusion(np.exp(rng.normal(0, 0.5, 32)), 4)
    chosen = top_k(scores + steer(scores, wanted, 4, groups, kept), 4, groups, kept)
    share = np.bincount(chosen.ravel(), minlength=32) / 8192
    assert np.abs(share - wanted).sum() <= 0.02 * 4
