"""Capacity plans through the product: bounds below what is simulated, the cheapest found, what misses said."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import parse
from moesim.spec.serving.constants import load_fitted
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.bounds import floor_of, least_servers, touched_experts
from moesim.study.planning.candidates import layouts
from moesim.study.planning.economics import break_even_tokens, device_usd_per_hour
from moesim.study.planning.plan import make_plan, plan_of
from moesim.study.planning.search import mean_lengths, search

TEXT = """
model: gpt-oss-120b
load: {rate: 30, input: {kind: fixed, tokens: 800}, output: {kind: fixed, tokens: 200}, requests: 120}
slo: {percentile: 90, ttft: 1 s, tpot: 25 ms}
search:
  - hardware: h100
    software: vllm
    devices: [1, 2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
    max_sequences: [32, 256]
routing: {kind: lognormal, sigma: 0.8}
finalists: 1
runners_up: 2
"""


@pytest.fixture(scope="module")
def plan():
    return parse(TEXT).check(Plan)


@pytest.fixture(scope="module")
def parts(plan):
    return load_model(plan.model), {"h100": load_profile("h100")}


@pytest.fixture(scope="module")
def result():
    return plan_of(parse(TEXT))


def test_the_recommended_servers_meet_the_objectives_and_one_less_does_not(result):
    best = result.metrics["best"]
    assert best["ttft_s"] <= 1.0
    assert best["tpot_s"] <= 0.025
    assert best["servers"] > 1
    assert "×" in best["binds"] or "overload" in best["binds"]
    costs = [row["usd_per_hour"] for row in (best, *result.metrics["runners_up"])]
    assert costs == sorted(costs)
    assert best["usd_per_hour"] == pytest.approx(best["devices"] * 1.3)
    assert best["usd_per_million_output_tokens"] == pytest.approx(best["usd_per_hour"] / (30 * 200 * 3600) * 1e6)


def test_every_candidate_is_served_or_dropped_for_a_reason(result):
    metrics = result.metrics
    assert metrics["considered"] == metrics["served"] + sum(metrics["dropped"].values())


def test_nothing_cheaper_was_pruned_away(plan, parts, result):
    """The same search without stopping early finds nothing cheaper."""
    everything = search(plan.model_copy(update={"runners_up": 10_000}), *parts, "<text>")
    cheapest = everything.meeting()[0]
    assert cheapest.devices * 1.3 == pytest.approx(result.metrics["best"]["usd_per_hour"])


def test_bounds_are_below_what_is_simulated(plan, parts):
    model, products = parts
    lengths, touched = mean_lengths(plan), touched_experts(model)
    constants = load_fitted().stacks["vllm"]
    floors = {}
    for layout in layouts(plan, model):
        floors[layout] = floor_of(plan, model, products["h100"], layout, lengths, constants, touched)
        assert not isinstance(floors[layout], str)
        assert (np.diff(floors[layout].step_s) >= 0).all()
    found = search(plan.model_copy(update={"runners_up": 10_000}), *parts, "<text>")
    assert found.meeting()
    for each in found.meeting():
        assert each.servers >= least_servers(plan, each.candidate, floors, lengths)[0]


def test_an_objective_that_nothing_meets_says_how_close_one_gets():
    missed = plan_of(parse(TEXT.replace("tpot: 25 ms", "tpot: 4 ms")))
    assert not missed.found
    assert missed.metrics["best"] is None
    closest = missed.metrics["closest"]
    assert closest["miss"] > 1
    assert "TPOT" in closest["binds"]


def test_more_of_something_never_carries_less(result):
    gains = result.sensitivity.set_index("knob")["gain"]
    more = gains.drop("balanced experts")  # balance touches more experts, which small batches pay for
    assert (more > -0.02).all()
    assert more.max() > 0.02


def test_the_finalists_step_runs_through_the_engine(result):
    assert (result.finalists["step_s"] > 0).all()


def test_equal_searches_find_equal_servers_whatever_the_processes(plan, parts):
    small = plan.model_copy(update={"runners_up": 1})
    one, two = (search(small, *parts, "<text>", jobs=jobs) for jobs in (1, 2))
    assert one.evaluations == two.evaluations


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "devices: [1, 2]",
            "devices: [7]\n    parallelism: [{tp: 7, ep: 7}]",
            "search: no degree divides the model",
        ),
        ("rate: 30", "rate: 0", "load.rate"),
        ("software: vllm", "software: vlm", "search.0.software"),
        (
            "finalists: 1",
            "finalists: 1\neconomics: {own: {h100: {device: 30 kUSD, years: 4}}}",
            "economics.electricity",
        ),
        ("finalists: 1", "finalists: 1\ncompare: [{model: nowhere}]", "compare.0.model"),
    ],
)
def test_mistakes_are_named_with_their_place(old, new, told):
    with pytest.raises(InvalidInput) as error:
        plan_of(parse(TEXT.replace(old, new), "plan.yaml"))
    assert told in str(error.value)
    assert "plan.yaml:" in str(error.value)


def test_owned_devices_pay_capital_upkeep_and_electricity():
    text = TEXT.replace(
        "finalists: 1",
        "economics: {electricity: 0.1 USD/kWh, own: {h100: {device: 35 kUSD, years: 4, upkeep: 0.0}}}",
    )
    economics = parse(text).check(Plan).economics
    hardware = load_profile("h100")
    expected = 35_000 / 4 / 8766 + hardware.watts_all_in / 1e3 * 0.1
    assert device_usd_per_hour(hardware, economics) == pytest.approx(expected)
    with pytest.raises(InvalidInput, match="no price"):
        device_usd_per_hour(replace(hardware, name="x", usd_per_hour=None), economics)


def test_candidates_that_cannot_run_are_dropped_with_the_reason():
    metrics = plan_of(parse(TEXT.replace("hardware: h100", "hardware: tpu_v5p"))).metrics
    assert metrics["best"] is None
    assert metrics["closest"] is None
    assert any("offers no" in reason for reason in metrics["dropped"])


def test_break_even():
    assert break_even_tokens(10.0, 1e-6, 4.0, 3e-6) == pytest.approx(3e6)
    assert break_even_tokens(4.0, 1e-6, 10.0, 3e-6) == 0.0
    assert break_even_tokens(10.0, 3e-6, 4.0, 1e-6) is None
    assert break_even_tokens(None, 1e-6, 4.0, 3e-6) is None


def test_an_unknown_plan_is_named():
    with pytest.raises(InvalidInput, match="deepseek-r1"):
        make_plan("deepseek-r2")
