"""Rank order and the products that must agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.model.parallelism import Parallelism, training_parallelism


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


def test_megatron_order_of_training_ranks():
    parallelism = training_parallelism(16, tp=2, cp=2, pp=2, ep=4)
    assert parallelism.attention_dp == 2
    assert parallelism.expert_dp == 2
    assert parallelism.tp_groups[:2].tolist() == [[0, 1], [2, 3]]
    assert parallelism.cp_groups[:2].tolist() == [[0, 2], [1, 3]]
    assert parallelism.dp_groups[:2].tolist() == [[0, 4], [1, 5]]
    assert sorted(parallelism.gradient_groups[0].tolist()) == [0, 2, 4, 6]
    assert parallelism.pp_groups[:2].tolist() == [[0, 8], [1, 9]]
    assert parallelism.ep_groups.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert parallelism.expert_dp_groups[:2].tolist() == [[0, 4], [1, 5]]
    assert parallelism.stage_index.tolist() == [0] * 8 + [1] * 8


def test_another_order_moves_the_stages_inside():
    parallelism = training_parallelism(8, tp=2, pp=2, order=("tp", "pp", "dp", "cp"))
    assert parallelism.pp_groups.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert parallelism.ep_groups[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]  # ep 1: each rank alone, stage after stage


degrees = st.sampled_from([1, 2, 4])


@given(tp=degrees, cp=degrees, pp=degrees, dp=degrees, order=st.permutations(["tp", "cp", "dp", "pp"]), data=st.data())
def test_groups_of_every_kind_hold_every_rank_once(tp, cp, pp, dp, order, data):
    stage = tp * cp * dp
    ep = data.draw(st.sampled_from([d for d in range(1, stage + 1) if stage % d == 0]))
    parallelism = training_parallelism(stage * pp, tp=tp, cp=cp, pp=pp, ep=ep, order=tuple(order))
    for kind in ("tp", "cp", "dp", "pp", "ep", "expert_tp", "expert_dp", "gradient"):
        groups = getattr(parallelism, f"{kind}_groups")
        assert sorted(groups.ravel()) == list(range(stage * pp))
        if kind != "pp":  # only pipelines leave their stage
            assert (parallelism.stage_index[groups] == parallelism.stage_index[groups][:, :1]).all()


def test_illegal_training_degrees_name_each_field():
    with pytest.raises(InvalidInput) as caught:
        training_parallelism(64, tp=3, pp=2, ep=24)
    assert [problem.field for problem in caught.value.problems] == ["parallelism.tp", "parallelism.ep"]
    with pytest.raises(InvalidInput, match="write 16"):
        training_parallelism(64, tp=2, pp=2, dp=8)
    with pytest.raises(InvalidInput) as caught:
        training_parallelism(8, order=("tp", "tp", "dp", "pp"))
    assert caught.value.problems[0].field == "parallelism.order"
