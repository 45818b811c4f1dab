import numpy as np
import pytest

from moesim.serving.fleet import Fleet, Pool
from moesim.serving.policy import Policy
from moesim.serving.simulate import simulate
from moesim.serving.steps import LinearSteps


@pytest.fixture
def serve():
    """Serve requests on servers whose steps take one second each unless said otherwise."""

    def run(requests, *, policy=None, cost=None, capacity=1e9, ranks=1, servers=1, **options):
        policy = policy or Policy(prefix_caching=False, block_tokens=1)
        pool = Pool(policy, cost or LinearSteps(1.0), capacity, ranks, servers)
        fleet = options.pop("fleet", Fleet(pool))
        return simulate(requests, fleet, rng=np.random.default_rng(0), **options)

    return run
