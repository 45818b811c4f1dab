from dataclasses import replace

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.serving.drafts import decode_steps
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.policy import Policy
from moesim.serving.requests import closed_loop, open_loop
from moesim.serving.simulate import simulate
from moesim.serving.steps import LinearSteps

PLAIN = Policy(prefix_caching=False, block_tokens=1)
SECOND = Pool(PLAIN, LinearSteps(1.0), 1e9)


def run(requests, fleet, **options):
    return simulate(requests, fleet, rng=np.random.default_rng(0), **options)


def test_servers_behind_a_balancer_share_the_load():
    requests = open_loop([0.0, 0.0, 0.0, 0.0], [10] * 4, [5] * 4)
    for balancer in ("round_robin", "least_loaded", "kv_aware"):
        outcome = run(requests, Fleet(replace(SECOND, servers=2), balancer=balancer)).outcome
        assert sorted(outcome.replica.tolist()) == [0, 0, 1, 1]


def test_a_balancer_sends_prompts_where_their_prefix_is():
    policy = replace(PLAIN, prefix_caching=True)
    pool = replace(SECOND, policy=policy, servers=2)
    prefix = tuple((group, group + 10) for group in (1, 2, 1, 2))
    requests = open_loop([0.0, 10.0, 20.0, 30.0], [40] * 4, [2] * 4, prefix=prefix, block_tokens=16)
    outcome = run(requests, Fleet(pool, balancer="kv_aware")).outcome
    assert outcome.replica[2] == outcome.replica[0]
    assert outcome.cached_tokens.tolist() == [0, 0, 32, 32]


def test_an_unknown_balancer_is_named():
    with pytest.raises(InvalidInput, match="round_robin"):
        run(open_loop([0.0], [1], [1]), Fleet(SECOND, balancer="best"))


def test_pools_hand_the_cache_over_one_request_at_a_time():
    fleet = Fleet(SECOND, prefill=SECOND, transfer_s=lambda tokens: tokens / 10)
    outcome = run(open_loop([0.0, 0.0], [20, 20], [4, 4]), fleet).outcome
    assert outcome.first_token_s.tolist() == [1.0, 2.0]
    # The caches leave from 1 to 3 and from 3 to 5; the second joins at the next boundary.
    assert outcome.finished_s.tolist() == [6.0, 8.0]


def test_long_prompts_do_not_pause_decoding_in_another_pool():
    cost = LinearSteps(0.01, token_s=1e-4)
    requests = open_loop([0.0, 0.2], [10, 50_000], [100, 2])
    policy = replace(PLAIN, token_budget=100_000)
    alone = run(requests, Fleet(Pool(policy, cost, 1e9))).outcome
    apart = run(requests, Fleet(Pool(policy, cost, 1e9), prefill=Pool(policy, cost, 1e9))).outcome
    assert apart.tpot_s(requests.output_len)[0] == pytest.approx(0.01)
    assert alone.tpot_s(requests.output_len)[0] > 0.05


def test_the_front_end_is_serial():
    fleet = Fleet(SECOND, frontend=Frontend(fixed_s=0.2, request_s=0.5))
    outcome = run(closed_loop([10, 10], [2, 2], 2), fleet).outcome
    # Ready at 0.6 and 1.1; steps end at 1.6, 2.6; 0.1 s back.
    assert outcome.first_token_s.tolist() == pytest.approx([1.7, 2.7])


def test_an_overloaded_open_loop_is_stopped_and_said():
    requests = open_loop(np.arange(1000) * 0.01, np.full(1000, 10), np.full(1000, 100))
    pool = replace(SECOND, policy=replace(PLAIN, max_sequences=2))
    result = run(requests, Fleet(pool), queue_limit=50)
    assert result.stopped == "overloaded"
    assert (result.outcome.status == 0).sum() > 900


def test_an_interrupted_run_keeps_what_it_knows():
    calls = []

    def interrupt(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    requests = closed_loop(np.full(3000, 10), np.full(3000, 2), 4)
    result = run(requests, Fleet(SECOND), progress=interrupt)
    assert calls == [1000]
    assert result.stopped == "interrupted"
    assert (result.outcome.status == 1).sum() == 1000


def test_equal_seeds_give_equal_runs():
    rng = np.random.default_rng(5)
    requests = closed_loop(rng.integers(1, 500, 200), rng.integers(1, 100, 200), 16)
    policy = replace(PLAIN, draft_tokens=2, acceptance=0.7)
    first, second = (run(requests, Fleet(Pool(policy, LinearSteps(0.01, 1e-4), 1e6))).outcome for _ in range(2))
    assert np.array_equal(first.finished_s, second.finished_s)


def test_steps_of_multi_token_prediction_have_the_mean_of_the_acceptance():
    policy = replace(PLAIN, draft_tokens=3, acceptance=0.6)
    outputs = np.full(4000, 1001)
    steps = decode_steps(outputs, policy, np.random.default_rng(0))
    assert steps.mean() * policy.tokens_per_step == pytest.approx(1000, rel=2e-3)
    assert steps.min() >= 250
