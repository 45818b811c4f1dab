"""Which servers of a pool take requests: balancing over those that are up, through failures, draining and scaling.

Failed servers lose their caches. What was under way moves to another server, which computes the prompt and what had
been generated anew (request migration, as in NVIDIA Dynamo); clients keep waiting. Without any server up, requests wait
at the balancer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import simpy

from moesim.serving.batch import Sequence
from moesim.serving.replica import Replica
from moesim.serving.steps import Prefill, StepCost

Balance = Callable[[Many[Replica], Sequence, int], int]


@dataclass(frozen=True, slots=True)
class Outage:
    """A server that is not itself from `at_s` until `until_s`.

    slowdown: 0 where it is gone; else its steps take so many times as long (a lost rank whose experts others serve, a
    degraded link).
    """

    server: int
    at_s: float
    until_s: float
    slowdown: float = 0.0


@dataclass(frozen=True, slots=True)
class Elastic:
    """When servers are added and taken away.

    fewest, most: servers that are up. One is added when more than `grow_at` requests wait, or more than `grow_batch`
    are in the system, for each server that is up or starting; one is drained when at most `shrink_at` wait for each
    and those left would have fewer than `shrink_batch` each.
    period_s: between two looks. start_s: until an added server takes requests (a device is provided, weights or experts
    are loaded). A drained server takes no more and leaves when it is empty.
    """

    fewest: int
    most: int
    grow_at: float
    shrink_at: float
    shrink_batch: float
    period_s: float
    start_s: float
    grow_batch: float = math.inf


class SlowedSteps:
    """A step cost whose seconds are multiplied by `factor`, which may change while the server runs."""

    def __init__(self, cost: StepCost):
        self._cost, self.factor, self.draws = cost, 1.0, cost.draws

    def decode_s(self, sequences: int, total: int, context: float, draw: int = 0) -> float:
        """As `StepCost` says."""
        return self.factor * self._cost.decode_s(sequences, total, context, draw)

    def hottest(self, sequences: int, total: int, draw: int = 0) -> float:
        """As `StepCost` says."""
        return self._cost.hottest(sequences, total, draw)

    def bend(self, sequences: int, context: float) -> float:
        """As `StepCost` says."""
        return self._cost.bend(sequences, context)

    def mixed_s(self, sequences: int, total: int, context: float, prefill: Prefill) -> float:
        """As `StepCost` says."""
        return self.factor * self._cost.mixed_s(sequences, total, context, prefill)


class Roster:
    """The servers of one pool, and which of them are up. history: (second, servers that hold devices).
    moved: requests that left a failed server."""

    def __init__(self, env: simpy.Environment, servers: list[Replica], balance: Balance, up: int):
        self._env, self.servers, self._balance = env, servers, balance
        self._up = servers[:up]
        self._draining: set[Replica] = set()
        self._failed: set[Replica] = set()
        self._starting = 0
        self._parked: list[Sequence] = []
        self._turn = 0
        self.moved = 0
        self.history: list[tuple[float, int]] = [(env.now, up)]

    def submit(self, sequence: Sequence) -> None:
        """A request goes to the server that the balancer chooses now, or waits until one is up."""
        up = self._up
        if not up:
            self._parked.append(sequence)
            return
        chosen = 0 if len(up) == 1 else self._balance(up, sequence, self._turn)
        self._turn += 1
        up[chosen].submit(sequence)

    def queued(self) -> int:
        """Requests that wait for admission anywhere."""
        waiting = len(self._parked)
        for server in self.servers:
            waiting += server.queued()
        return waiting

    # ------------------------------------------------------------------ failures

    def suffer(self, outage: Outage, slowed: SlowedSteps) -> Iterator[simpy.Event]:
        """SimPy process of one outage. slowed: the step cost of its server."""
        server = self.servers[outage.server]
        yield self._env.timeout(outage.at_s - self._env.now)
        if outage.slowdown:
            slowed.factor *= outage.slowdown
            server.recheck()
            yield self._env.timeout(outage.until_s - self._env.now)
            slowed.factor /= outage.slowdown
            server.recheck()
            return
        was_up = server in self._up
        if was_up:
            self._up.remove(server)
        self._failed.add(server)
        for sequence in server.evict():
            self.moved += 1
            self.submit(sequence)
        yield self._env.timeout(outage.until_s - self._env.now)
        self._failed.discard(server)
        if was_up:
            self._add(server)

    # ------------------------------------------------------------------ scaling

    def scale(self, rule: Elastic, done: simpy.Event) -> Iterator[simpy.Event]:
        """SimPy process that adds and drains servers by a rule until `done`."""
        while not done.triggered:
            yield self._env.timeout(rule.period_s)
            self._draining = {server for server in self._draining if server.in_system}
            self._note()
            up = len(self._up)
            coming = up + self._starting
            waiting, in_system = self.queued(), len(self._parked) + sum(server.in_system for server in self._up)
            crowded = waiting > rule.grow_at * coming or in_system > rule.grow_batch * coming
            if crowded and coming < rule.most:
                self._env.process(self._grow(rule))
            elif up > rule.fewest and waiting <= rule.shrink_at * up and in_system < rule.shrink_batch * (up - 1):
                server = min(self._up, key=lambda server: server.in_system)
                self._up.remove(server)
                self._draining.add(server)

    def _grow(self, rule: Elastic) -> Iterator[simpy.Event]:
        self._starting += 1
        self._note()
        yield self._env.timeout(rule.start_s)
        self._starting -= 1
        taken = {*self._up, *self._draining, *self._failed}
        free = [server for server in self.servers if server not in taken]
        if free:
            self._add(free[0])

    def _add(self, server: Replica) -> None:
        self._draining.discard(server)
        self._up.append(server)
        self._note()
        waiting, self._parked = self._parked, []
        for sequence in waiting:
            self.submit(sequence)

    def _note(self) -> None:
        count = len(self._up) + len(self._draining) + len(self._failed) + self._starting
        if count != self.history[-1][1]:
            self.history.append((self._env.now, count))
