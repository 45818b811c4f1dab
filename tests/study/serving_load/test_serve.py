"""Shipped serving scenarios through the product: figures, bounds of the jump, mistakes."""

import numpy as np
import pytest

from moesim.errors import Infeasible, InvalidInput
from moesim.serving.simulated import Factors
from moesim.spec.reading import library
from moesim.spec.serving.assembly import assemble_serving
from moesim.spec.serving.constants import load_fitted
from moesim.study.serving_load.pareto import crossover, efficient, pareto
from moesim.study.serving_load.serve import build_fleet, serve_scenario
from moesim.workload.footprint import expert_bytes, kv_bytes

SCENARIOS = [name for name in library.names("scenario") if name.startswith("serving-")]


def change(name, *changes):
    return serve_scenario(name, changes).metrics


@pytest.mark.parametrize("name", SCENARIOS)
def test_runs_of_equal_steps_change_no_reported_percentile_by_more_than_a_percent(name):
    jumped, exact = (serve_scenario(name, exact=exact).metrics for exact in (False, True))
    for figure in ("ttft_s", "tpot_s", "latency_s"):
        assert jumped[figure] == pytest.approx(exact[figure], rel=0.01)


@pytest.mark.parametrize("name", SCENARIOS)
def test_equal_scenarios_give_equal_metrics(name):
    assert serve_scenario(name).metrics == serve_scenario(name).metrics


def test_decode_batches_have_the_changing_imbalance_of_the_trace():
    run = serve_scenario("serving-deepseek-v3-b200").run
    rows = run.journals[0].table()
    full = (rows["total"] == 64) & (rows["prefill_tokens"] == 0)
    assert len(np.unique(rows["hottest"][full])) > 12  # of the 16 windows of this batch size
    assert 1.2 < rows["hottest"][full].min() < rows["hottest"][full].max() < 2
    balanced = serve_scenario("serving-deepseek-v3-b200", ["routing={kind: balanced}"])
    rows = balanced.run.journals[0].table()
    assert rows["hottest"][rows["total"] == 64] == pytest.approx(1, abs=0.01)


def test_routing_and_placement_of_the_scenario_decide_the_step_times():
    short = ["load.requests=64", "load.arrivals.in_flight=32"]
    traced = change("serving-deepseek-v3-b200", *short)
    balanced = change("serving-deepseek-v3-b200", *short, "routing={kind: balanced}")
    prose = change(
        "serving-deepseek-v3-b200", *short, "routing={kind: trace, trace: deepseek-v3-miniature, labels: [prose]}"
    )
    times = {found["tpot_s"]["mean"] for found in (traced, balanced, prose)}
    assert len(times) == 3
    spread = change("serving-deepseek-v3-b200", *short, "placement={kind: eplb, slots_per_rank: 36}")
    hottest = [found["servers"][0]["hottest_rank_over_mean"] for found in (traced, spread)]
    assert hottest[1] < hottest[0] - 0.1
    assert "deepseek-v3-miniature (captured)" in traced["provenance"]["routing"]


def test_simulated_steps_answer_beside_the_stack_model():
    small = [
        "load.requests=64",
        "load.arrivals={kind: closed_loop, in_flight: 8}",
        "steps={kind: simulated, windows: 2}",
    ]
    simulated = change("serving-deepseek-v3-b200", *small)
    stack = change("serving-deepseek-v3-b200", *small[:2])
    assert simulated["requests"]["finished"] == 64
    assert simulated["tpot_s"]["mean"] == pytest.approx(stack["tpot_s"]["mean"], rel=0.3)
    fitted = load_fitted()
    for found, intervals in ((simulated, fitted.simulated), (stack, fitted)):  # each has an interval of its own
        for figure in ("ttft", "tpot"):
            low, high = getattr(intervals, f"{figure}_interval")
            told = found[f"{figure}_s"]
            assert (told["mean_low"] / told["mean"], told["mean_high"] / told["mean"]) == pytest.approx((low, high))


def test_no_factor_makes_a_simulated_step_faster_than_the_bytes_it_reads():
    assembly = assemble_serving("serving-deepseek-v3-b200", ["steps={kind: simulated, windows: 1}"])
    steps = build_fleet(assembly, load_fitted()).pool.cost
    deployment, free = steps.deployment, steps.under(Factors(decode=0.0))
    hbm = deployment.machine.device.hbm_bytes_per_s
    experts = float((np.full(58, 32) * expert_bytes(deployment)).sum())  # 64 tokens touch all 32 of some rank
    cached = 64 * kv_bytes(deployment, 2048)
    least = free.decode_s(64, 64, 64 * 2048.0)
    assert 0.9 * (experts + cached) / hbm < least < steps.decode_s(64, 64, 64 * 2048.0)


def test_more_load_gives_more_throughput_and_slower_tokens():
    few, many = (
        change("serving-deepseek-v3-b200", f"load.arrivals.in_flight={n}", f"load.requests={10 * n}") for n in (4, 64)
    )
    assert many["output_tokens_per_s"] > 3 * few["output_tokens_per_s"]
    assert many["tpot_s"]["mean"] > few["tpot_s"]["mean"]


def test_an_overload_is_said_and_ends():
    metrics = change("serving-qwen3-h100-bursty", "load.arrivals.rate=2000", "queue_limit=500", "load.requests=20000")
    assert metrics["stopped"] == "overloaded"
    assert not metrics["complete"]
    assert metrics["requests"]["unfinished"] > 0


def test_requests_longer_than_the_context_are_rejected_and_counted():
    metrics = change(
        "serving-qwen3-h100-bursty", "load.input={kind: fixed, tokens: 100000}", "load.requests=20", "load.warmup=0"
    )
    assert metrics["requests"] == {"unfinished": 0, "finished": 0, "rejected": 20, "preempted": 0}


def test_weights_that_leave_no_room_are_infeasible():
    with pytest.raises(Infeasible, match="bytes too many"):
        change(
            "serving-deepseek-v3-b200",
            "model=kimi-k2",
            "precision.experts=bf16",
            "placement.slots_per_rank=48",
            "routing={kind: lognormal, sigma: 0.7}",
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["load.arrivals={kind: poisson, rate: 0}"], "load.arrivals.rate: 0.0 is not above 0"),
        (["load.input={kind: uniform, low: 5, high: 4}"], "load.input.high: high 4 lies below low 5"),
        (["server={preset: vlm}"], "server.preset"),
        (["load={arrivals: {kind: poisson, rate: 1}}"], "load.requests: arrivals of kind poisson need it"),
        (["load.arrivals={kind: replay, trace: none.csv}"], "none.csv"),
        (["balancer=best"], "balancer"),
        (["steps={kind: stack, windows: 1000}"], "steps.windows"),
    ],
)
def test_mistakes_name_their_field(changes, words):
    with pytest.raises(InvalidInput) as error:
        change("serving-deepseek-v3-b200", *changes)
    assert words in str(error.value)


def test_a_frontier_and_the_crossover_with_the_dense_twin():
    table = pareto("serving-deepseek-v3-b200", [1, 16, 256], twin=True)
    assert len(table) == 6
    moe = table[table["model"] == "deepseek-v3"]
    assert moe["tokens_per_s_per_user"].is_monotonic_decreasing
    assert efficient(moe).all()
    at = crossover(table)
    assert at is None or 1 <= at <= 256


def test_efficient_points_are_those_that_nobody_beats():
    import pandas as pd

    table = pd.DataFrame(
        {"tokens_per_s_per_user": [10, 20, 5, 10.0], "output_tokens_per_s_per_device": [100, 50, 90, 100.0]}
    )
    assert efficient(table).tolist() == [True, True, False, True]
    assert np.isfinite(table.to_numpy()).all()
