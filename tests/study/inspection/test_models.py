"""The table of models agrees with what vendors publish wherever they publish more than a rounded figure."""

import math

import pytest

from moesim.study.inspection.models import models_table

# Published totals that are rounded, or count something else, by the model's own note: no model can come within 1 %.
ROUNDED = {
    "deepseek-v2-lite",
    "kimi-k2",
    "jetmoe-8b",
    "switch-base-128",
    "glam-64e",
    "gshard-600b",
    "llama-4-scout",
    "llama-2-70b",
    "kimi-linear-48b-a3b",
    "nemotron-3-super",
    "gemma-4-26b-a4b",
    "gpt-4-rumoured",
}


@pytest.fixture(scope="module")
def table():
    return models_table()


def test_totals_agree_within_one_percent_unless_rounded(table):
    exact = table.drop(index=list(ROUNDED))
    assert exact["total_difference"].abs().max() < 0.01
    assert table.loc[list(ROUNDED), "total_difference"].abs().max() < 0.07


def test_active_parameters_agree_with_the_vendors_counting(table):
    known = table["active_difference"].dropna().abs()
    assert known.median() < 0.011
    derived, rounded = {"grok-1"}, {"qwen3-next-80b-a3b", "kimi-linear-48b-a3b", "nemotron-3-super", "gemma-4-26b-a4b"}
    assert set(known.index[known > 0.03]) == derived | rounded  # from 25 % of the total; whole billions


def test_per_token_figures_stand_beside_published_ones(table):
    row = table.loc["deepseek-v3"]
    assert row.kv_bytes_per_token == 70_272
    assert abs(row.kv_difference) < 0.01
    assert abs(row.flops_difference) < 0.02


def test_a_rumour_has_totals_and_nothing_else(table):
    row = table.loc["gpt-4-rumoured"]
    assert "RUMOUR" in row.title
    assert row.total_parameters == 1_831_000_000_000
    assert math.isnan(row.kv_bytes_per_token)
    assert math.isnan(row.forward_flops_per_token)


def test_a_dense_twin_and_a_configuration_need_no_published_figures():
    twin = models_table(["mixtral-8x7b-dense-twin"]).iloc[0]
    assert math.isnan(twin.published_total)
    assert twin.active_parameters == twin.total_parameters
