"""A training run over weeks: a job among failures, and goodput by the interval between its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import simpy

from moesim.resilience.failures import failing, recorded
from moesim.resilience.process import Job, JobProcess, Operations, RunLog


def run_training(job: Job, operations: Operations, rng: np.random.Generator) -> RunLog:
    """Simulate one run. Equal generators give equal runs. Ends when the work is done, the horizon is reached, or no
    progress is being made, which `RunLog.stopped` then says."""
    env = simpy.Environment(initial_time=0.0)
    run = JobProcess(env, job, operations)
    # One generator a class: a change of one rate leaves the failures of the others where they were.
    for of, own in zip(operations.classes, rng.spawn(len(operations.classes)), strict=True):
        if of.rate > 0:
            env.process(failing(env, of, own, run.tell))
    if operations.log:
        env.process(recorded(env, operations.log, run.tell))
    ends = [run.process] if job.horizon_s is None else [run.process, env.timeout(job.horizon_s)]
    env.run(until=env.any_of(ends))
    return run.log()


def goodput_by_interval(
    job: Job,
    intervals: Sequence[float],
    with_interval: Callable[[float], Operations],
    seeds: Sequence[int],
) -> np.ndarray:
    """Goodput [interval, seed] of the same failures under each interval of work between checkpoints (seconds)."""
    return np.array(
        [
            [run_training(job, with_interval(interval), np.random.default_rng(seed)).goodput for seed in seeds]
            for interval in intervals
        ]
    )
