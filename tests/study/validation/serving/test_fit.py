"""Fits of serving stacks: what was put in comes out, whole groups are held out, effects shrink."""

import numpy as np
import pandas as pd
import pytest

from moesim.study.validation.serving.fit import PARAMETERS, constants_of, errors, fit, predicted, start
from moesim.study.validation.serving.fit_effects import LEVEL_SPREAD, fit_effects, row_factors
from moesim.study.validation.serving.judge import folds, held_out, interval, summary
from moesim.study.validation.serving.runs import STACKS, build_runs

ROW = {
    "hardware": "h200", "model": "gpt-oss-120b", "software": "vllm", "image": "a", "precision": "fp4",
    "input_len": 256, "output_len": 64, "concurrency": 4, "gpus": 2, "ep": 1, "attention_dp": 1,
    "client": "inferencex", "measured": "2026-03-27", "warmed_up": True, "ttft_s": 1.0, "tpot_s": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    """Nine runs of three stacks, whose measured times are those of known constants."""
    rows = [ROW | {"software": stack, "concurrency": c, "image": stack} for stack in STACKS for c in (1, 4, 16)]
    found = build_runs(pd.DataFrame(rows), {}, constants_of(start()))
    ttft, tpot = predicted(found, truth())
    found.table["ttft_s"], found.table["tpot_s"] = ttft, tpot
    return found


def truth():
    x = start()
    x[list(PARAMETERS).index("kernel")] += 0.3
    x[len(PARAMETERS)] = 0.1  # of the first stack's dense kernels
    return x


def test_a_fit_explains_runs_that_constants_can_explain(runs):
    before, after = (np.abs(errors(runs, *predicted(runs, x))[1]).mean() for x in (start(), fit(runs, evaluations=30)))
    assert after < 0.6 * before  # the expected values hold back nine runs, not six hundred


def test_condensed_runs_have_the_times_of_the_simulation(runs):
    from moesim.study.validation.serving.predict import build_server, predict_row
    from moesim.study.validation.serving.rows import read_row

    row = read_row(ROW | {"concurrency": 16})
    simulated = predict_row(row, build_server(row.configuration), constants_of(start())["vllm"])
    ttft, tpot = predicted(runs, start())
    assert ttft[2] == pytest.approx(simulated.ttft_s, rel=0.02)
    assert tpot[2] == pytest.approx(simulated.tpot_s, rel=0.02)


def test_whole_curves_are_held_out():
    table = pd.DataFrame([ROW | {"input_len": n, "concurrency": c} for n in range(100, 120) for c in (1, 2, 4)])
    assert (table.assign(fold=folds(table, "curve")).groupby("input_len")["fold"].nunique() == 1).all()
    assert len(set(folds(table, "curve"))) == 5


def test_what_was_held_out_had_no_influence(runs):
    """Runs of a fold are predicted the same whatever their times were."""
    table = runs.table.assign(model=["a"] * 3 + ["b"] * 6)
    first = type(runs)(table, *(getattr(runs, n) for n in type(runs).__slots__[1:]))
    changed = table.assign(tpot_s=table["tpot_s"].where(table["model"] != "a", 9.0))
    second = type(runs)(changed, *(getattr(runs, n) for n in type(runs).__slots__[1:]))
    assert held_out(first, start(), "model")[1][:3] == pytest.approx(held_out(second, start(), "model")[1][:3])


def test_effects_follow_the_evidence_and_shrink_without_it():
    table = pd.DataFrame([ROW | {"precision": p} for p in ["fp4"] * 40 + ["bf16"]])
    error = np.full(41, 0.10)  # predictions 10 % too long
    effects = fit_effects(table.drop(columns="image"), error, error)
    many, one = (row_factors(effects, table[table["precision"] == p])[1][0] for p in ("fp4", "bf16"))
    assert many == pytest.approx(1 / 1.1, abs=0.01)
    assert 1 / 1.1 < one < 1
    assert -np.log(one) < LEVEL_SPREAD


def test_rows_that_are_not_scored_do_not_count():
    table = pd.DataFrame([ROW, ROW])
    effects = fit_effects(table, np.array([np.nan, np.nan]), np.array([0.1, 0.1]))
    assert next(iter(effects.groups.values()))[0] == 0
    assert next(iter(effects.groups.values()))[1] < 0


def test_a_summary_states_errors_coverage_and_choices(runs):
    found = summary(runs, *predicted(runs, truth()), np.arange(9) % 3)
    assert found["tpot_mape"] == pytest.approx(0)
    assert found["tpot_coverage"] == 1
    assert found["choice_median"] == 1


def test_intervals_hold_four_fifths():
    low, high = interval([np.linspace(-0.2, 0.2, 1001)])
    ratios = 1 / (1 + np.linspace(-0.2, 0.2, 1001))
    assert ((low <= ratios) & (ratios <= high)).mean() == pytest.approx(0.8, abs=0.01)
