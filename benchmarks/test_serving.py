"""Speed of the serving simulation; the first figures are promises of the README and docs/serving.md."""

import resource
import time

import numpy as np

from moesim.serving.arrivals import diurnal
from moesim.serving.fleet import Fleet, Pool
from moesim.serving.lengths import nominal
from moesim.serving.policy import PRESETS
from moesim.serving.requests import closed_loop, open_loop
from moesim.serving.simulate import simulate
from moesim.serving.steps import LinearSteps

COST = LinearSteps(5e-3, 1e-5, 1e-8, 1e-6)


def test_closed_loop_of_256_in_flight(benchmark):
    """20,000 requests/s and more of 1,000 tokens in and out, on one core."""
    rng, count = np.random.default_rng(0), 10 * 256
    requests = closed_loop(nominal(count, rng, tokens=1000), nominal(count, rng, tokens=1000), 256)
    fleet = Fleet(Pool(PRESETS["vllm"], COST, 1e6))

    def run():
        return simulate(requests, fleet, rng=np.random.default_rng(0))

    result = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert (result.outcome.status == 1).all()
    benchmark.extra_info["requests_per_s"] = count / benchmark.stats["median"]


def test_a_day_at_twenty_requests_a_second(benchmark):
    """1.7 million requests within 2 minutes and 2 GB."""
    rng, count = np.random.default_rng(0), 20 * 86_400
    requests = open_loop(
        diurnal(count, rng, rate=20.0), nominal(count, rng, tokens=1000), nominal(count, rng, tokens=300)
    )
    fleet = Fleet(Pool(PRESETS["vllm"], COST, 1e6, servers=2))
    begin = time.process_time()
    result = benchmark.pedantic(lambda: simulate(requests, fleet, rng=rng, queue_limit=20_000), rounds=1)
    seconds = time.process_time() - begin
    assert not result.stopped
    assert seconds < 120
    benchmark.extra_info["cpu_s"] = seconds
    benchmark.extra_info["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
