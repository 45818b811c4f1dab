"""A service through failures, through the product; and a step without one rank, through the engine."""

import pytest

from moesim.errors import InvalidInput
from moesim.spec.assembly.step import assemble
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.reliability.lost_rank import measure_lost_rank
from moesim.study.reliability.service_runs import simulate_service
from moesim.study.serving_load.serve import serve_scenario

FEWER = "serving.set=['load.requests=400']"


@pytest.fixture(scope="module")
def shipped():
    return simulate_service("resilience-service-h200", [FEWER, "seeds=8"])


def test_a_lost_rank_slows_steps_and_states_share_the_time(shipped):
    metrics = shipped.metrics
    assert 1.0 < metrics["without_rank"]["slowdown"] < 1.3
    assert shipped.states["share"].sum() + metrics["unserved_share"] == pytest.approx(1.0)
    assert metrics["all_up"]["mean"] <= metrics["availability"]["mean"]
    assert metrics["states"][0]["up"] == 4


def test_one_failure_moves_requests_and_lengthens_the_tail(shipped):
    one = shipped.metrics["one_failure"]
    assert one["down_s"] == pytest.approx(30.0)  # detection and forming groups anew
    assert one["moved"] > 0
    parts = [one[part]["requests"] for part in ("before", "during", "after")]
    assert sum(parts) == (~shipped.requests["warmup"]).sum()
    assert one["during"]["tpot_p50_s"] > one["before"]["tpot_p50_s"]


def test_dropping_drops_some_pairs_and_slows_less_than_rerouting():
    assembly = assemble(read_scenario("deepseek-v3-decode-h100", ["workload.sequences_per_rank=32"]))
    rerouted, dropped = (measure_lost_rank(assembly, drop=drop) for drop in (False, True))
    assert rerouted.dropped == 0.0
    assert rerouted.moved > 0
    assert 0.0 < dropped.dropped < 5 / 64
    assert 1.0 < dropped.slowdown < rerouted.slowdown < 1.25


def test_servers_come_with_the_load_and_cost_fewer_device_hours():
    fewer = ["load.requests=4000"]
    elastic = serve_scenario("serving-elastic-h100", fewer).metrics
    fixed = serve_scenario("serving-elastic-h100", [*fewer, "elastic=null"]).metrics
    assert fixed["elastic"] is None
    assert elastic["elastic"]["mean_servers"] < 4
    assert 60.0 < elastic["elastic"]["start_s"] < 70.0  # provision, and the weights over eight NICs
    assert elastic["ttft_s"]["p99"] >= fixed["ttft_s"]["p99"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("serving.scenario=serving-deepseek-v3-b200", "serving.scenario: is a closed loop"),
        ("serving.scenario=nowhere", "no scenario is named 'nowhere'"),
        ("recovery={kind: shrink, restart: 5 min}", "recovery.kind: shrinks a training job"),
        ("serving.scenario=serving-elastic-h100", "recovery.kind: one rank less stops the whole server"),
        ("failures.log=x.csv", "failures.log"),
    ],
)
def test_mistakes_are_named(change, told):
    with pytest.raises(InvalidInput) as error:
        simulate_service("resilience-service-h200", [FEWER, change])
    assert told in str(error.value)


def test_more_servers_to_begin_with_than_there_are_is_refused():
    with pytest.raises(InvalidInput, match=r"elastic\.fewest: 9 are more than the 4 servers"):
        serve_scenario("serving-elastic-h100", ["elastic.fewest=9"])
