import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.placement.policies import contiguous
from moesim.workload.offload.prefetch import PREFETCHES, Foresight, learned, pre_gated, recall, transitions, wanted


def foresight(ids, past, experts=4):
    placement = contiguous(np.ones((ids.shape[1], experts)), 2, slots_per_rank=experts // 2)
    return Foresight(ids, past, placement, experts, np.random.default_rng(0))


def test_transitions_are_shares_and_remember_what_followed():
    before, after = np.array([[0], [0], [0], [1]]), np.array([[2], [2], [3], [1]])
    follows = transitions(before, after, 4)
    np.testing.assert_allclose(follows.sum(axis=1), 1)
    # after expert 0: counts 0 0 2 1, plus the layer's shares 0 ¼ ½ ¼, over 4
    np.testing.assert_allclose(follows[0], np.array([0, 0.25, 2.5, 1.25]) / 4)
    np.testing.assert_allclose(follows[3], [0, 0.25, 0.5, 0.25])  # never seen: popularity


def test_learned_guesses_what_followed_before():
    past = np.array([[[0], [1], [2], [3]], [[3], [2], [1], [0]]])  # [layer, token, k]: layer 1 turns layer 0 round
    ids = np.array([[[[0], [2]], [[3], [1]]]])  # [step, layer, token, k]
    look = foresight(ids, past)
    assert learned(look)[0, 1].tolist() == [[3], [1]]
    assert recall(ids, learned(look)) == 1


def test_a_trained_pre_gate_is_always_right_and_an_untrained_one_as_often_as_stated():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 4, (20, 3, 50, 1))
    look = foresight(ids, ids[0])
    assert recall(ids, pre_gated(look)) == 1
    assert recall(ids, pre_gated(look, accuracy=0.0)) == 0
    assert recall(ids, pre_gated(look, accuracy=0.7)) == pytest.approx(0.7, abs=0.03)
    with pytest.raises(InvalidInput, match=r"prefetch.accuracy.* from 0 to 1, not 1.5"):
        pre_gated(look, accuracy=1.5)
    assert PREFETCHES["none"](look) is None


def test_guesses_are_counted_where_their_experts_are():
    guesses = np.array([[[[0, 3], [0, 2]]]])
    assert wanted(foresight(guesses, guesses[0]).placement, guesses)[0, 0].tolist() == [[2, 0], [1, 1]]
