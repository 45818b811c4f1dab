"""Loads of experts from windows of a trace: toy pools with exact counts, and what placements make of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from moesim.model.parallelism import Parallelism
from moesim.placement.placement import Placement
from moesim.routing.replay import Routes
from moesim.serving.grids import TOKENS
from moesim.serving.replayed import ReplayedLoads, dealt_window, window_of


def pool(ids, ranks=1, count=None):
    """Routes of ids [layer, token, k], cut evenly over the ranks."""
    ids = np.asarray(ids)
    offsets = np.arange(ranks + 1) * (ids.shape[1] // ranks)
    return Routes(ids, count, offsets, np.arange(ids.shape[1])[None], 0, True)


def deployment(expert, *, experts=4, attention_dp=1, choice="round_robin"):
    """What loads look at: the placement expert [layer, rank, slot], degrees and servers."""
    expert = np.asarray(expert)
    ranks = expert.shape[1]
    return SimpleNamespace(
        placement=Placement("toy", expert, experts, choice),
        parallelism=Parallelism(ranks, attention_dp, ranks // attention_dp, ranks, 1),
        cluster=SimpleNamespace(node=np.arange(ranks)),
    )


def pairs(loads, placed, phase="decode", rows=(0,)):
    return loads.pairs(phase, placed, rows)


def test_windows_count_their_own_tokens_on_the_slots_of_their_experts():
    # Tokens 0-3 take experts 0 and 1, tokens 4-7 experts 2 and 3; rank 0 holds 0 and 2, rank 1 holds 1 and 3.
    routes = pool([[[0, 1]] * 4 + [[2, 3]] * 4])
    found = pairs(ReplayedLoads(routes, routes, windows=2), deployment([[[0, 2], [1, 3]]]))
    assert found.shape == (TOKENS.size, 2, 1, 2, 2)
    four = np.flatnonzero(TOKENS == 4)[0]
    assert found[four, 0, 0].tolist() == [[4, 0], [4, 0]]  # the first window
    assert found[four, 1, 0].tolist() == [[0, 4], [0, 4]]  # the second, four tokens on
    eight = np.flatnonzero(TOKENS == 8)[0]
    assert found[eight, 0, 0].tolist() == found[eight, 1, 0].tolist() == [[4, 4], [4, 4]]


def test_prompts_have_their_own_tokens():
    decode, prompts = pool([[[0, 1]] * 8]), pool([[[2, 3]] * 8])
    loads, placed = ReplayedLoads(decode, prompts), deployment([[[0, 1], [2, 3]]])
    assert pairs(loads, placed)[0, 0, 0].tolist() == [[1, 1], [0, 0]]
    assert pairs(loads, placed, "prefill")[0, 0, 0].tolist() == [[0, 0], [1, 1]]


def test_every_token_is_counted_k_times_in_every_layer_and_larger_steps_hold_smaller_ones():
    rng = np.random.default_rng(0)
    routes = pool(np.stack([rng.permuted(np.tile(np.arange(8), (600, 1)), axis=1)[:, :3] for _ in range(2)]), ranks=2)
    placed = deployment([[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2, experts=8, attention_dp=2)
    found = pairs(ReplayedLoads(routes, routes, windows=3), placed, rows=(0, 1))
    assert found.sum(axis=(3, 4)) == pytest.approx(
        np.broadcast_to(3 * TOKENS[:, None, None], found.shape[:3]), rel=1e-6
    )
    assert (np.diff(found, axis=0) >= 0).all()


@pytest.mark.parametrize("choice", ["round_robin", "least_loaded"])
def test_replicas_share_the_tokens_of_a_hot_expert(choice):
    routes = pool([[[0]] * 64])
    placed = deployment([[[0, 1], [0, 2]]], experts=3, choice=choice)
    at = np.flatnonzero(TOKENS == 32)[0]
    assert pairs(ReplayedLoads(routes, routes), placed)[at, 0, 0].tolist() == [[16, 0], [16, 0]]


def test_choices_that_do_not_hold_load_nobody():
    routes = pool([[[0, 1]] * 4], count=np.array([[1, 1, 2, 2]]))
    found = pairs(ReplayedLoads(routes, routes, windows=1), deployment([[[0, 2], [1, 3]]]))
    assert found[np.flatnonzero(TOKENS == 4)[0], 0, 0].tolist() == [[4, 0], [2, 0]]


def test_a_window_is_dealt_to_the_ranks_in_turn_and_wraps_around_in_each():
    offsets = np.array([0, 4, 10])
    assert dealt_window(offsets, 6, 0.5).tolist() == [2, 7, 3, 8, 0, 9]


def test_windows_of_whole_ranks_follow_one_another():
    routes = pool([np.arange(12)[:, None]], ranks=2)
    assert window_of(routes, 2, 1).ids[0, :, 0].tolist() == [2, 3, 8, 9]
    assert window_of(routes, 2, 1).offsets.tolist() == [0, 2, 4]
