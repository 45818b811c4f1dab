import numpy as np
import pytest

from moesim.routing.replay import Routes
from moesim.routing.runs import in_one_step


def step(first, offsets=(0, 2, 3), count=None):
    """Three sequences on two ranks whose tokens are numbered from `first`; one layer, top-2."""
    tokens = np.arange(first, first + 3)
    return Routes(np.stack([tokens, tokens + 50], axis=1)[None], count, np.array(offsets), tokens[None], 1, False)


def test_a_sequences_tokens_stand_together_in_order():
    joined = in_one_step([step(0), step(10)])
    assert joined.tokens.tolist() == [[0, 10, 1, 11, 2, 12]]
    assert joined.ids[0].tolist() == [[0, 50], [10, 60], [1, 51], [11, 61], [2, 52], [12, 62]]
    assert joined.offsets.tolist() == [0, 4, 6]
    assert joined.reused == 2


def test_counts_follow_their_tokens():
    joined = in_one_step([step(0, count=np.array([[1, 2, 2]])), step(10, count=np.array([[2, 1, 1]]))])
    assert joined.count.tolist() == [[1, 2, 2, 1, 2, 1]]


def test_one_step_stays_and_strangers_are_refused():
    assert in_one_step([only := step(0)]) is only
    with pytest.raises(ValueError, match="different sequences"):
        in_one_step([step(0), step(0, offsets=(0, 1, 3))])
