"""Serve requests with a fleet: clients, front end and servers on one SimPy clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simpy

from moesim.errors import InvalidInput, Problem
from moesim.serving.balancers import BALANCERS
from moesim.serving.batch import Sequence
from moesim.serving.drafts import decode_steps
from moesim.serving.fleet import Fleet, Pool
from moesim.serving.journal import Journal
from moesim.serving.replica import Replica
from moesim.serving.requests import FINISHED, REJECTED, Outcome, Requests, blank_outcome
from moesim.serving.roster import Roster, SlowedSteps


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished or stopped simulation. journals: one a server, the prefill pool's first. stopped: why it ended before
    every request had (``interrupted``, ``overloaded``), or "". servers: (second, servers of the pool that hold devices)
    at every change. moved: requests that left a failed server."""

    outcome: Outcome
    journals: tuple[Journal, ...]
    seconds: float
    stopped: str = ""
    servers: tuple[tuple[float, int], ...] = ()
    moved: int = 0


def simulate(
    requests: Requests,
    fleet: Fleet,
    *,
    rng: np.random.Generator,
    exact: bool = False,
    queue_limit: int | None = None,
    journal_rows: int | None = 50_000,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Serve all requests and say when each had its first and its last token.

    exact: simulate every step instead of runs of equal steps. queue_limit: stop an open loop once so many requests
    wait, because it is overloaded. An interruption (KeyboardInterrupt) also keeps what is known so far.
    progress: called with (ended, all) now and then. Raises InvalidInput where the fleet's names are unknown.
    """
    if fleet.balancer not in BALANCERS:
        names = ", ".join(BALANCERS)
        raise InvalidInput(Problem(f"{fleet.balancer!r} is unknown; write one of {names}", "balancer"))
    driver = _Driver(requests, fleet, rng, exact, queue_limit, journal_rows, progress)
    try:
        driver.env.run(until=driver.done)
    except KeyboardInterrupt:
        driver.stopped = "interrupted"
    back = driver.back
    return Run(
        driver.outcome(), tuple(driver.journals), float(driver.env.now), driver.stopped, tuple(back.history), back.moved
    )


class _Driver:
    """The clients, the front end and the balancer of one simulation; parameters as those of `simulate`."""

    def __init__(
        self,
        requests: Requests,
        fleet: Fleet,
        rng: np.random.Generator,
        exact: bool,
        queue_limit: int | None,
        journal_rows: int | None,
        progress: Callable[[int, int], None] | None,
    ):
        self.env = simpy.Environment(initial_time=0.0)
        self.done = self.env.event()
        self.requests, self.fleet, self.stopped = requests, fleet, ""
        self._queue_limit, self._progress = queue_limit, progress
        blank = blank_outcome(len(requests))
        # Lists: a Python float is written in a fifth of the time that an element of an array takes.
        self._submitted, self._first, self._last = (list(part) for part in (blank.submitted_s,) * 3)
        self._status, self._cached, self._preempted = ([0] * len(requests) for _ in range(3))
        self._replica = [-1] * len(requests)
        self._inputs, self._outputs = requests.input_len.tolist(), requests.output_len.tolist()
        self._priorities = requests.priority.tolist()
        self._steps = decode_steps(requests.output_len, fleet.pool.policy, rng).tolist()
        pools = (fleet.pool, fleet.prefill) if fleet.prefill else (fleet.pool,)
        self._can_hold = np.all([pool.can_hold(requests) for pool in pools], axis=0).tolist()
        self._arrivals = requests.arrival_s.tolist()
        self.journals: list[Journal] = []
        self._front = self._servers(fleet.prefill or fleet.pool, exact, journal_rows, self._prompt_done)
        self._back = self._servers(fleet.pool, exact, journal_rows, self._first_token) if fleet.prefill else self._front
        self._port_free = dict.fromkeys(self._front, 0.0)
        self._number = {server: number for number, server in enumerate(self._back)}
        balance, elastic = BALANCERS[fleet.balancer], fleet.elastic
        up = elastic.fewest if elastic else len(self._back)
        self.back = Roster(self.env, self._back, balance, up)
        self.front = self.back
        if fleet.prefill:
            self.front = Roster(self.env, self._front, balance, len(self._front))
        for outage in fleet.outages:
            self.env.process(self.back.suffer(outage, self._back_costs[outage.server]))
        if elastic:
            self.env.process(self.back.scale(elastic, self.done))
        self._front_free = 0.0
        self._sent = self._ended = 0
        if not len(requests):
            self.done.succeed()
        elif requests.in_flight is None:
            self._await_arrival()
        else:
            for _ in range(min(requests.in_flight, len(requests))):
                self._submit()

    def outcome(self) -> Outcome:
        """What is known now."""
        return Outcome(
            np.array(self._submitted),
            np.array(self._first),
            np.array(self._last),
            np.array(self._status),
            np.array(self._cached),
            np.array(self._preempted),
            np.array(self._replica),
        )

    def _servers(self, pool: Pool, exact: bool, journal_rows: int | None, on_first_token: Callable) -> list[Replica]:
        made = []
        # Servers that may slow down have a price of their own.
        apart = pool is self.fleet.pool and self.fleet.outages
        costs = [SlowedSteps(pool.cost) if apart else pool.cost for _ in range(pool.servers)]
        self._back_costs = costs
        for cost in costs:
            self.journals.append(Journal(journal_rows, pool.ranks))
            made.append(
                Replica(
                    self.env,
                    pool.policy,
                    cost,
                    capacity=pool.capacity,
                    ranks=pool.ranks,
                    journal=self.journals[-1],
                    on_first_token=on_first_token,
                    on_finish=self._finish,
                    on_preempt=self._count_preemption,
                    on_cached=self._count_cached,
                    block_tokens=self.requests.block_tokens,
                    swap_s_per_token=pool.swap_s_per_token,
                    exact=exact,
                )
            )
        return made

    def _await_arrival(self) -> None:
        """Set the clock for the next request of an open loop."""
        if self._sent < len(self._arrivals):
            self._timer(max(0.0, self._arrivals[self._sent] - self.env.now), self._arrive)

    def _arrive(self, _: simpy.Event) -> None:
        """Submit what arrives now: the request that the clock was set for, and others at the same time."""
        arrivals, limit = self._arrivals, self._queue_limit
        now = max(self.env.now, arrivals[self._sent])  # the clock may be an ulp early
        while self._sent < len(arrivals) and arrivals[self._sent] <= now:
            self._submit()
            if limit is not None and self._sent - self._ended > limit and self.front.queued() > limit:
                self.stopped = "overloaded"
                self.done.succeed()
                return
        self._await_arrival()

    def _submit(self) -> None:
        """The next request leaves its client now."""
        index, now = self._sent, self.env.now
        self._sent += 1
        self._submitted[index] = now
        requests = self.requests
        sequence = Sequence(
            index,
            self._inputs[index],
            self._outputs[index],
            self._steps[index],
            self._priorities[index],
            requests.prefix[index] if requests.prefix else (),
            index >= requests.warmup,
        )
        if not self._can_hold[index]:
            self._status[index] = REJECTED
            self._timer(0.0, lambda _: self._one_ended())
            return
        frontend = self.fleet.frontend
        delay = 0.0
        if frontend.fixed_s or frontend.request_s:
            self._front_free = max(now + frontend.fixed_s / 2, self._front_free) + frontend.request_s
            delay = self._front_free - now
        if delay:
            self._timer(delay, lambda _: self.front.submit(sequence))
        else:
            self.front.submit(sequence)

    def _timer(self, delay: float, call: Callable) -> None:
        self.env.timeout(delay).callbacks.append(call)

    def _first_token(self, sequence: Sequence, server: Replica) -> None:
        if math.isnan(self._first[sequence.index]):
            self._first[sequence.index] = self.env.now + self.fleet.frontend.fixed_s / 2

    def _prompt_done(self, sequence: Sequence, server: Replica) -> None:
        """The first token is out; where pools are apart, the cache goes to the other one."""
        self._first_token(sequence, server)
        if self._back is self._front or not sequence.steps:
            return
        server.release(sequence)
        begin = max(self.env.now, self._port_free[server])
        self._port_free[server] = begin + self.fleet.transfer_s(sequence.prompt)
        sequence.left = 0
        self._timer(self._port_free[server] - self.env.now, lambda _: self.back.submit(sequence))

    def _finish(self, sequence: Sequence, server: Replica) -> None:
        index = sequence.index
        self._last[index] = self.env.now + self.fleet.frontend.fixed_s / 2
        self._status[index] = FINISHED
        self._replica[index] = self._number.get(server, -1)
        self._one_ended()

    def _one_ended(self) -> None:
        self._ended += 1
        if self._progress is not None and self._ended % 1000 == 0:
            self._progress(self._ended, len(self.requests))
        if self.requests.in_flight is not None and self._sent < len(self.requests):
            self._submit()
        if self._ended == len(self.requests):
            self.done.succeed()

    def _count_preemption(self, sequence: Sequence) -> None:
        self._preempted[sequence.index] += 1

    def _count_cached(self, sequence: Sequence, tokens: int) -> None:
        self._cached[sequence.index] += tokens
