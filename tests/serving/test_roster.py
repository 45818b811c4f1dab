"""Servers that fail, slow down, come and go: exact times with linear steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.serving.fleet import Fleet, Pool
from moesim.serving.policy import PRESETS
from moesim.serving.requests import FINISHED, open_loop
from moesim.serving.roster import Elastic, Outage
from moesim.serving.simulate import simulate
from moesim.serving.steps import LinearSteps

ONE_SECOND = LinearSteps(1.0)


def serve(arrivals, outputs=11, servers=1, inputs=10, **fleet):
    count = len(arrivals)
    requests = open_loop(np.array(arrivals, dtype=float), np.full(count, inputs), np.full(count, outputs))
    pool = Pool(PRESETS["vllm"], ONE_SECOND, capacity=1e6, servers=servers)
    return simulate(requests, Fleet(pool, **fleet), rng=np.random.default_rng(0))


def test_without_outages_a_request_takes_a_step_a_token():
    run = serve([0.0])
    assert run.outcome.first_token_s.tolist() == [1.0]
    assert run.outcome.finished_s.tolist() == [11.0]


def test_a_request_of_a_dead_server_starts_anew_elsewhere_and_keeps_its_tokens():
    run = serve([0.0], servers=2, outages=(Outage(0, 5.5, 100.0),))
    # First token at 1, four more by 5. The other server computes 10 + 5 tokens in one step, then six are left.
    assert run.outcome.first_token_s.tolist() == [1.0]
    assert run.outcome.finished_s.tolist() == [6.5 + 6.0]
    assert run.outcome.replica.tolist() == [1]


def test_without_another_server_requests_wait_until_it_is_back():
    run = serve([0.0, 20.0], outages=(Outage(0, 5.5, 30.0),))
    assert run.outcome.finished_s.tolist() == [37.0, 42.0]
    assert run.outcome.first_token_s.tolist() == [1.0, 32.0]


def test_a_slowed_server_steps_slower_from_the_next_step_boundary_on():
    run = serve([0.0], outages=(Outage(0, 4.5, 11.0, slowdown=3.0),))
    # Steps end at 1, 2 ... 5, then 8, 11, and after the end of the slowdown at 12, 13, 14, 15.
    assert run.outcome.finished_s.tolist() == [15.0]


def test_servers_are_added_under_load_and_drained_after_it():
    rule = Elastic(1, 3, grow_at=2.0, shrink_at=0.0, shrink_batch=4.0, period_s=5.0, start_s=10.0)
    busy = np.linspace(0.0, 40.0, 3000)
    run = serve([*busy, 400.0, 500.0], servers=3, elastic=rule)
    counts = [count for _, count in run.servers]
    assert counts[0] == 1
    assert max(counts) == 3
    assert counts[-1] == 1
    assert (run.outcome.status == FINISHED).all()


@given(
    arrivals=st.lists(st.floats(0.0, 60.0), min_size=1, max_size=30),
    outages=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.0, 60.0), st.floats(0.1, 40.0), st.sampled_from((0.0, 2.0))),
        max_size=5,
    ),
)
def test_whatever_fails_every_request_ends_and_none_faster_than_without(arrivals, outages):
    arrivals = sorted(arrivals)
    planned = tuple(Outage(server, at, at + lasts, slowdown) for server, at, lasts, slowdown in outages)
    run = serve(arrivals, servers=3, outages=planned)
    assert (run.outcome.status == FINISHED).all()
    assert (run.outcome.finished_s - run.outcome.submitted_s >= 11.0 - 1e-9).all()
    assert (run.outcome.first_token_s <= run.outcome.finished_s).all()


def test_unknown_servers_are_refused():
    with pytest.raises(IndexError):
        serve([0.0], outages=(Outage(3, 1.0, 2.0),))
