"""A service over weeks: servers of one model that fail, wait for replacements and come back.

Each server is a job without checkpoints; they share the spare nodes, and a failure that takes more devices than a
server has (a power domain) hits all servers that stand on them. What comes out is when how many servers were up and how
many of those were slowed; what that means for latency is for the serving floor to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import simpy

from moesim.resilience.checkpoints import Checkpointing
from moesim.resilience.failures import Failure, failing
from moesim.resilience.process import DOWN, Job, JobProcess, Operations, RunLog
from moesim.resilience.spares import SparePool

NO_CHECKPOINTS = Checkpointing(math.inf, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceLog:
    """What became of a service. share: of the time by (servers up, of these slowed). servers: a log each."""

    wall_s: float
    share: dict[tuple[int, int], float]
    servers: tuple[RunLog, ...]

    @property
    def up(self) -> float:
        """Mean number of servers up."""
        return sum(up * part for (up, _), part in self.share.items())

    @property
    def availability(self) -> float:
        """Share of the time in which at least one server is up."""
        return sum(part for (up, _), part in self.share.items() if up)


def run_service(servers: int, job: Job, operations: Operations, rng: np.random.Generator) -> ServiceLog:
    """Simulate `servers` equal servers for `job.horizon_s`. job: of one server. operations.classes: over all devices
    of the service, in the order of the servers."""
    env = simpy.Environment(initial_time=0.0)
    pool = SparePool(operations.spares)
    alone = replace(operations, checkpointing=NO_CHECKPOINTS)
    running = [JobProcess(env, replace(job, work_s=None), alone, pool) for _ in range(servers)]

    def tell(failure: Failure) -> None:
        first = failure.unit * failure.of.devices
        last = min(first + failure.of.devices, servers * job.devices) - 1
        for number in range(first // job.devices, last // job.devices + 1):
            begin, end = max(first, number * job.devices), min(last, (number + 1) * job.devices - 1)
            here = replace(failure.of, devices=end - begin + 1)
            running[number].tell(Failure(here, failure.unit, failure.at_s))

    for of, own in zip(operations.classes, rng.spawn(len(operations.classes)), strict=True):
        env.process(failing(env, of, own, tell))
    env.run(until=job.horizon_s)
    logs = tuple(process.log() for process in running)
    return ServiceLog(job.horizon_s, _shares(logs, job.horizon_s), logs)


def _shares(logs: tuple[RunLog, ...], wall_s: float) -> dict[tuple[int, int], float]:
    """Share of the time by (servers up, servers slowed), from the histories of all."""
    changes = sorted(
        (at, number, state not in DOWN, state == "slowed")
        for number, log in enumerate(logs)
        for at, state in log.history
    )
    up, slowed = [True] * len(logs), [False] * len(logs)
    share: dict[tuple[int, int], float] = {}
    before = 0.0
    for at, number, is_up, is_slowed in [*changes, (wall_s, 0, True, False)]:
        key = (sum(up), sum(slowed))
        share[key] = share.get(key, 0.0) + (at - before) / wall_s
        before, up[number], slowed[number] = at, is_up, is_slowed
    return {key: part for key, part in sorted(share.items(), reverse=True) if part > 0}
