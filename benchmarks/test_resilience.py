"""Weeks of cluster time in seconds: a month of 2,048 GPUs beside as many plain SimPy timeouts."""

from functools import partial

import numpy as np
import simpy

from moesim.resilience.checkpoints import Checkpointing
from moesim.resilience.failures import FailureClass
from moesim.resilience.process import Job, Operations
from moesim.resilience.recovery import RECOVERIES
from moesim.resilience.training_run import run_training

HOUR = 3600.0
CLASSES = (
    FailureClass("device", 2048, 1, 50_000 * HOUR, 4 * HOUR),
    FailureClass("straggler", 2048, 1, 20_000 * HOUR, HOUR, 1.2),
)
MONTH = Job(2048, 8, None, 30 * 24 * HOUR)


def month(seed=0):
    restart = partial(RECOVERIES["restart"], restart_s=300.0)
    operations = Operations(CLASSES, Checkpointing(0.5 * HOUR, 30.0, 30.0, 60.0), restart, 120.0, spares=8)
    return run_training(MONTH, operations, np.random.default_rng(seed))


def test_a_month_of_2048_gpus(benchmark):
    log = benchmark(month)
    assert log.wall_s == MONTH.horizon_s


def test_as_many_timeouts(benchmark):
    events = len(month().history)

    def plain():
        env = simpy.Environment()

        def process():
            for _ in range(events):
                yield env.timeout(1.0)

        env.process(process())
        env.run()

    benchmark(plain)
