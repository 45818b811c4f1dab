"""Toy loads whose timelines can be told by hand: a step takes one second."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.serving.fleet import Fleet, Pool
from moesim.serving.policy import PRESETS, Policy
from moesim.serving.requests import closed_loop, open_loop
from moesim.serving.simulate import simulate
from moesim.serving.steps import LinearSteps

PLAIN = Policy(prefix_caching=False, block_tokens=1)


def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_further_token(serve):
    outcome = serve(open_loop([0.0], [100], [5])).outcome
    assert outcome.first_token_s == [1.0]
    assert outcome.finished_s == [5.0]
    assert outcome.tpot_s(np.array([5])) == [1.0]


def test_a_request_that_arrives_during_a_run_joins_at_the_next_step_boundary(serve):
    outcome = serve(open_loop([0.0, 2.5], [100, 100], [10, 3])).outcome
    assert outcome.first_token_s.tolist() == [1.0, 4.0]
    assert outcome.finished_s.tolist() == [10.0, 6.0]


def test_prefill_first_pauses_decoding(serve):
    policy = replace(PLAIN, prefill="first")
    outcome = serve(open_loop([0.0, 2.5], [100, 100], [10, 3]), policy=policy).outcome
    assert outcome.first_token_s.tolist() == [1.0, 4.0]
    assert outcome.finished_s.tolist() == [11.0, 6.0]


def test_chunks_share_the_budget_with_decoding(serve):
    policy = replace(PLAIN, token_budget=100)
    outcome = serve(open_loop([0.0], [250], [2]), policy=policy).outcome
    assert outcome.first_token_s == [3.0]  # 100 + 100 + 50
    together = serve(open_loop([0.0, 0.0], [100, 150], [9, 1]), policy=policy).outcome
    # The first decodes from step 2 on, so that the second gets 99 tokens, then the other 51.
    assert together.first_token_s.tolist() == [1.0, 3.0]


def test_whole_prompts_wait_until_the_budget_holds_them(serve):
    policy = replace(PLAIN, chunked=False, token_budget=150)
    outcome = serve(open_loop([0.0, 0.0], [100, 100], [3, 3]), policy=policy).outcome
    assert outcome.first_token_s.tolist() == [1.0, 2.0]


def test_most_sequences_run_at_once(serve):
    policy = replace(PLAIN, max_sequences=1)
    outcome = serve(open_loop([0.0, 0.0], [10, 10], [4, 4]), policy=policy).outcome
    assert outcome.first_token_s.tolist() == [1.0, 5.0]


def test_priorities_overtake(serve):
    requests = open_loop([0.0, 0.1, 0.2], [10, 10, 10], [3, 3, 3], priority=np.array([0, 2, 1]))
    policy = replace(PLAIN, max_sequences=1, order="priority")
    assert serve(requests, policy=policy).outcome.first_token_s.tolist() == [1.0, 7.0, 4.0]


def test_new_requests_are_seen_only_at_polls(serve):
    policy = replace(PLAIN, poll_interval=4)
    outcome = serve(open_loop([0.0, 1.5], [10, 10], [20, 2]), policy=policy).outcome
    # The prompt's step ends at 1; decode steps 1 … 4 follow, and the server looks again at 5.
    assert outcome.first_token_s.tolist() == [1.0, 6.0]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_the_latest_request_loses_its_cache_when_it_is_full(serve, preemption):
    policy = replace(PLAIN, preemption=preemption)
    run = serve(open_loop([0.0, 0.0], [10, 10], [10, 10]), policy=policy, capacity=30)
    assert run.outcome.preemptions.tolist() == [0, 1]
    assert (run.outcome.status == 1).all()
    assert run.outcome.finished_s[0] < run.outcome.finished_s[1]


def test_reserving_all_outputs_never_preempts(serve):
    policy = replace(PLAIN, kv_reserve=1.0)
    run = serve(open_loop([0.0, 0.0], [10, 10], [10, 10]), policy=policy, capacity=30)
    assert run.outcome.preemptions.tolist() == [0, 0]
    assert run.outcome.first_token_s[1] >= run.outcome.finished_s[0]


def test_requests_that_never_fit_are_rejected_and_counted(serve):
    run = serve(closed_loop([10, 1000, 10], [5, 5, 5], 1), capacity=100)
    assert run.outcome.status.tolist() == [1, 2, 1]
    assert np.isfinite(run.outcome.finished_s[[0, 2]]).all()


def test_a_shared_prefix_is_computed_once(serve):
    policy = replace(PLAIN, prefix_caching=True)
    requests = open_loop([0.0, 10.0], [64, 64], [2, 2], prefix=((1, 2, 3), (1, 2, 3)), block_tokens=16)
    cost = LinearSteps(0.0, token_s=1.0)
    outcome = serve(requests, policy=policy, cost=cost).outcome
    assert outcome.cached_tokens.tolist() == [0, 48]
    assert outcome.ttft_s().tolist() == [64.0, 70.0]  # waits for the first until 64, then computes 16


def test_uneven_ranks_stall_together(serve):
    """Two ranks step together: the pace is that of the one with two sequences."""
    cost = LinearSteps(0.0, sequence_s=1.0)
    policy = replace(PLAIN, dp_placement="round_robin")
    requests = open_loop([0.0, 0.0, 0.0], [1, 1, 1], [3, 3, 3])
    run = serve(requests, policy=policy, cost=cost, ranks=2)
    # The first decodes alone while the others' prompts run (free here), then two sequences take two seconds.
    assert run.outcome.finished_s.tolist() == [3.0, 4.0, 4.0]
    rows = run.journals[0].table()
    assert rows["uneven"][rows["total"] == 3] == pytest.approx(4 / 3)


def test_multi_token_prediction_needs_fewer_steps(serve):
    policy = replace(PLAIN, draft_tokens=1, acceptance=1.0)
    outcome = serve(open_loop([0.0], [10], [101]), policy=policy).outcome
    assert outcome.finished_s == [51.0]


@pytest.mark.parametrize("name", list(PRESETS))
def test_runs_of_equal_steps_change_no_percentile_by_more_than_a_percent(serve, name):
    rng = np.random.default_rng(3)
    count = 400
    requests = open_loop(
        np.cumsum(rng.exponential(0.05, count)), rng.integers(50, 3000, count), rng.integers(1, 400, count)
    )
    cost = LinearSteps(4e-3, 2e-5, 2e-8, 1e-6)
    jumped, exact = (
        serve(requests, policy=PRESETS[name], cost=cost, capacity=2e5, exact=exact).outcome for exact in (False, True)
    )
    for fast, slow in (
        (jumped.ttft_s(), exact.ttft_s()),
        (jumped.tpot_s(requests.output_len), exact.tpot_s(requests.output_len)),
    ):
        levels = [10, 50, 90, 95, 99]
        assert np.nanpercentile(fast, levels) == pytest.approx(np.nanpercentile(slow, levels), rel=0.01)


lengths = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60), st.floats(0, 5)), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(load=lengths, name=st.sampled_from(list(PRESETS)), ranks=st.integers(1, 3), capacity=st.integers(200, 3000))
def test_every_request_ends_or_is_rejected_and_no_token_comes_too_early(load, name, ranks, capacity):
    load = sorted(load, key=lambda item: item[2])
    inputs, outputs, arrivals = map(np.array, zip(*load, strict=True))
    policy = replace(PRESETS[name], token_budget=512, poll_interval=3)
    pool = Pool(policy, LinearSteps(0.01, 1e-4, 1e-6, 1e-5), float(capacity), ranks)
    run = simulate(open_loop(arrivals, inputs, outputs), Fleet(pool), rng=np.random.default_rng(0))
    outcome = run.outcome
    assert set(outcome.status.tolist()) <= {1, 2}
    done = outcome.status == 1
    assert (outcome.first_token_s[done] >= outcome.submitted_s[done] + 0.01).all()
    assert (outcome.finished_s[done] >= outcome.first_token_s[done] + 0.01 * (outputs[done] - 1) - 1e-9).all()
    assert (run.journals[0].table()["kv_share"] <= 1 + 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(in_flight=st.integers(1, 8), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_journal_holds_the_mean_latencies(in_flight, count, seed):
    rng = np.random.default_rng(seed)
    requests = closed_loop(rng.integers(10, 500, count), rng.integers(2, 50, count), in_flight)
    pool = Pool(PLAIN, LinearSteps(0.01, 1e-4, 1e-6, 1e-5), 1e6)
    run = simulate(requests, Fleet(pool), rng=rng, journal_rows=None)
    rows = run.journals[0].table()
    ttft, tpot = ((rows["seconds"] * rows[name]).sum() / count for name in ("waiting", "slowness"))
    assert ttft == pytest.approx(np.mean(run.outcome.ttft_s()), rel=1e-9)
    assert tpot == pytest.approx(np.mean(run.outcome.tpot_s(requests.output_len)), rel=1e-9)


class BentSteps(LinearSteps):
    """A price whose line in the mean context bends at 500 and 1,000 tokens."""

    BENDS = (500, 1000)

    def decode_s(self, sequences, total, context, draw=0):
        mean = context / max(sequences, 1)
        bent = sum(max(mean - bend, 0) for bend in self.BENDS)
        return super().decode_s(sequences, total, context) + 1e-5 * bent

    def bend(self, sequences, context):
        return next((bend * sequences for bend in self.BENDS if bend * sequences > context), float("inf"))


@pytest.mark.parametrize("ranks", [1, 3])
def test_jumps_over_bends_and_uneven_ranks_are_exact(serve, ranks):
    """A run of steps is its first and last step's trapezoid: it may cross no bend, and no other rank may overtake."""
    rng = np.random.default_rng(5)
    requests = closed_loop(rng.integers(10, 900, 60), rng.integers(1, 700, 60), 7)
    jumped, exact = (
        serve(requests, cost=BentSteps(4e-3, 2e-5, 2e-8, 1e-6), capacity=2e4, ranks=ranks, exact=exact).outcome
        for exact in (False, True)
    )
    assert jumped.finished_s == pytest.approx(exact.finished_s, rel=1e-9)
    assert jumped.first_token_s == pytest.approx(exact.first_token_s, rel=1e-9)


class DrawnSteps(LinearSteps):
    """A price that depends on the window of routing."""

    def decode_s(self, sequences, total, context, draw=0):
        return super().decode_s(sequences, total, context) * (1 + draw)

    def hottest(self, sequences, total, draw=0):
        return 1.5 + draw


def test_windows_of_routing_change_as_decoding_goes_on(serve):
    """64 steps of one second, then 64 of two, and so on; jumped as exactly as step by step."""
    requests = closed_loop(np.array([1]), np.array([200]), 1)
    for exact in (False, True):
        run = serve(requests, cost=DrawnSteps(1.0, draws=3), exact=exact)
        first, last = run.outcome.first_token_s[0], run.outcome.finished_s[0]
        assert last - first == pytest.approx(64 * (1 + 2 + 3) + 7 * 1)  # 199 steps after the first token
    rows = run.journals[0].table()
    assert set(rows["hottest"]) >= {1.5, 2.5, 3.5}
