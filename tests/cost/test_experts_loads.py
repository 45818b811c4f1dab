"""Patterns of the kernel tables: exact small cases and what must hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost.experts_loads import balanced_loads, load_columns, power_law_loads, table_loads
from moesim.errors import InvalidInput


def _columns(tokens: int, experts: int, top_k: int, ep: int, distribution: str, grouped: bool = False) -> dict:
    one = [np.array([value]) for value in (tokens, experts, top_k, ep, distribution, grouped)]
    return {name: float(values[0]) for name, values in table_loads(*one).items()}


def test_load_columns_pad_each_expert_by_itself() -> None:
    columns = load_columns(np.array([[1, 0, 9, 16]]))
    assert columns["pairs"] == [26]
    assert columns["touched"] == [3]
    assert columns["tiles_8"] == [1 + 2 + 2]
    assert columns["tiles_16"] == [3]
    assert columns["tiles_128"] == [3]


def test_balanced_takes_every_stride_th_expert() -> None:
    # 8 experts, top 2: stride 4, token t takes t and t + 4
    assert balanced_loads(3, 8, 2).tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    assert balanced_loads(4, 8, 2).tolist() == [1] * 8
    assert balanced_loads(6, 8, 2).tolist() == [2, 2, 1, 1, 2, 2, 1, 1]


def test_few_tokens_spread_over_the_stride() -> None:
    # two tokens of four possible starts: 0 and 2
    assert balanced_loads(2, 8, 2).tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(("tokens", "touched"), [(4, 1), (8, 2), (16, 3), (64, 4)])
def test_balanced_touches_as_many_experts_as_the_tables_show(tokens: int, touched: int) -> None:
    # vLLM's Triton kernel on H200, E = 512, k = 10, 128 ranks: 42, 47, 65, 107 µs, some 10 µs an expert
    assert _columns(tokens, 512, 10, 128, "balanced")["touched"] == touched


def test_grouped_routing_keeps_half_and_fills_the_first_experts() -> None:
    # 256 experts in 8 groups of 32, top 8: one pick a group; 4 groups stay, 4 free picks go to the first experts
    loads = balanced_loads(64, 256, 8, grouped=True)
    assert loads.sum() == 64 * 8
    assert np.count_nonzero(loads[:128]) == 128
    assert loads[128:].sum() == 0
    # three of 32 starts hold an expert 0..3 themselves and take expert 4 instead
    assert (loads[:4] == 64).all()
    assert loads[4] == 2 + 8
    assert (loads[5:128] == 2).all()


def test_groups_that_hold_all_picks_change_nothing() -> None:
    # 128 experts in 8 groups of 16, top 4 at stride 32: four groups hold one pick each, and all four are kept
    np.testing.assert_array_equal(balanced_loads(96, 128, 4, grouped=True), balanced_loads(96, 128, 4))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 3000), k=st.sampled_from([1, 2, 4, 8]), experts=st.sampled_from([8, 32, 128, 160]),
    exponent=st.sampled_from([1.01, 1.2]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_power_law_places_every_pair_or_clamps(tokens: int, k: int, experts: int, exponent: float, seed: int) -> None:
    loads = power_law_loads(tokens, experts, k, exponent, np.random.default_rng(seed), draws=4)
    assert loads.shape == (4, experts)
    assert loads.min() >= 0
    assert loads.max() <= tokens
    assert (loads.sum(axis=1) <= tokens * k).all()
    unclamped = loads.max(axis=1) < tokens
    assert (loads.sum(axis=1)[unclamped] == tokens * k).all()


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 2000), ep=st.sampled_from([1, 2, 8, 32]), grouped=st.booleans(),
    distribution=st.sampled_from(["balanced", "power_law_1.01", "power_law_1.2"]),
)  # fmt: skip
def test_columns_are_consistent(tokens: int, ep: int, grouped: bool, distribution: str) -> None:
    columns = _columns(tokens, 256, 8, ep, distribution, grouped)
    assert 1 <= columns["touched"] <= 256 / ep
    assert columns["pairs"] <= tokens * 8 * 1.01
    assert columns["pairs"] >= columns["touched"] * 0.99 or grouped
    for small, large in ((8, 16), (16, 32), (32, 64), (64, 128), (128, 256)):
        assert columns[f"tiles_{small}"] >= columns[f"tiles_{large}"] >= columns["touched"] * 0.99
    assert columns["tiles_8"] * 8 >= columns["pairs"]


def test_the_hottest_rank_carries_at_least_its_share() -> None:
    for ep in (2, 8, 32):
        assert _columns(512, 256, 8, ep, "power_law_1.2")["pairs"] >= 512 * 8 / ep


def test_pairs_left_over_by_rounding_fall_on_random_experts() -> None:
    # 32 pairs of 256 experts: 30 touched; were the largest loads given the remainder, 19
    assert 0.88 < _columns(4, 256, 8, 1, "power_law_1.01")["touched"] / 32 < 1


def test_one_token_never_meets_all_its_experts_on_one_rank() -> None:
    # ties of single pairs are broken at random: eight of 256 experts, spread over 32 ranks
    assert _columns(1, 256, 8, 32, "power_law_1.2")["pairs"] < 3


def test_the_same_row_has_the_same_loads_whatever_else_is_in_the_table() -> None:
    alone = _columns(100, 128, 8, 4, "power_law_1.01")
    table = table_loads(
        np.array([7, 100, 100]), np.array([32, 128, 128]), np.array([4, 8, 8]), np.array([1, 4, 2]),
        np.array(["balanced", "power_law_1.01", "power_law_1.01"]), np.zeros(3, dtype=bool),
    )  # fmt: skip
    assert {name: float(values[1]) for name, values in table.items()} == alone


@pytest.mark.parametrize("name", ["zipf", "power_law_", "power_law_1", "power_law_-2", "uniform_1.2"])
def test_unknown_distributions_are_named(name: str) -> None:
    with pytest.raises(InvalidInput, match="balanced or power_law_A"):
        _columns(8, 32, 4, 1, name)
