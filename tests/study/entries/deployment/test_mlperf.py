"""MLPerf figures: what their names say, and that a limit holds for 99 % of requests."""

from dataclasses import replace

import pytest

from moesim.study.entries.deployment import mlperf
from moesim.study.entries.deployment.server import hardware_named, server_of
from moesim.study.entries.inference.closed_loops import slowed
from moesim.study.entries.inference.lengths import Lengths, lengths_of
from moesim.study.entries.inference.traffic import Traffic, traffic_of
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.runs.outcome import Outcome

SERVER = Entry(
    "one", kind="inference", model="gpt-oss-120b", hardware="B200", devices=8, metric="MLPerf v6.0 Server tokens/s",
    unit="tok/s",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 0.08),
        ({"metric": "MLPerf v6.0 Server (interactive) tokens/s"}, 0.015),
        ({"metric": "MLPerf v6.0 Offline tokens/s"}, None),
        ({"model": "Mixtral 8x7B"}, 0.2),
        ({"metric": "server tokens/s"}, None),  # not MLPerf's
        ({"model": "Qwen3-235B"}, None),  # no benchmark of it
    ],
)
def test_limits_of_scenarios(changes, limit):
    assert mlperf.limit(replace(SERVER, **changes)) == limit


def test_lengths_and_stack_where_none_is_stated():
    assert lengths_of(SERVER, Assumptions()) == Lengths(8000, 1278)
    assert lengths_of(replace(SERVER, input_len="100", output_len="10"), Assumptions()) == Lengths(100, 10)
    assert server_of(SERVER, Assumptions()).stack == "trtllm"
    assert server_of(replace(SERVER, software="vLLM"), Assumptions()).stack == "vllm"
    assert mlperf.stack(SERVER, hardware_named("MI355X")) == ""
    traffic = traffic_of(SERVER, server_of(SERVER, Assumptions()), Assumptions())
    assert (traffic.speed, traffic.statistic) == (pytest.approx(12.5), "p99")


class Slower:
    """A mean token of 1 ms a request in flight, and of twice that for the slowest hundredth."""

    def run(self, data):
        flight = data["load"]["arrivals"]["in_flight"]
        return Outcome(1, 1, 1.0, {}, tpot={"mean": flight * 1e-3, "p99": flight * 2e-3})


@pytest.mark.parametrize(("statistic", "flight"), [("mean", 40), ("p99", 20)])
def test_the_most_requests_that_keep_the_limit(statistic, flight):
    document = {
        "parallelism": {"attention_dp": 2},
        "load": {"requests": 300, "arrivals": {"kind": "closed_loop", "in_flight": 100}},
    }
    traffic = Traffic(None, 25.0, 0, 0.0, statistic=statistic)
    found = slowed(document, traffic, Assumptions(), Slower())["load"]
    assert found == {"requests": 6 * flight, "arrivals": {"kind": "closed_loop", "in_flight": flight}}
