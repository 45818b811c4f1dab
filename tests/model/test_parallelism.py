"""Rank order and the products that must agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.model.parallelism import Parallelism


def test_tensor_parallel_ranks_are_neighbours():
    parallelism = Parallelism(devices=8, attention_dp=4, tp=2, ep=8)
    assert parallelism.dp_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert parallelism.tp_groups.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert parallelism.ep_index.tolist() == list(range(8))


def test_slices_of_an_expert_are_neighbours():
    assert Parallelism(devices=4, tp=4, ep=2, expert_tp=2).ep_index.tolist() == [0, 0, 1, 1]


@given(dp=st.integers(1, 16), tp=st.integers(1, 16))
def test_every_rank_is_in_one_group(dp, tp):
    parallelism = Parallelism(devices=dp * tp, attention_dp=dp, tp=tp, ep=dp * tp)
    assert sorted(parallelism.tp_groups.ravel()) == list(range(dp * tp))
    for replica, ranks in enumerate(parallelism.tp_groups):
        assert np.all(parallelism.dp_index[ranks] == replica)


def test_every_wrong_product_is_said_at_once():
    with pytest.raises(InvalidInput) as caught:
        Parallelism(devices=64, attention_dp=8, tp=4, ep=24, expert_tp=3)
    assert [problem.field for problem in caught.value.problems] == ["parallelism.attention_dp", "parallelism.ep"]
    assert "write 16" in caught.value.problems[0].message
