"""Servers behind a balancer: one or many, or pools for prefill and decode with a transfer of KV between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np
import simpy

from moesim.errors import InvalidInput, Problem
from moesim.serving.batch import Sequence
from moesim.serving.journal import Journal
from moesim.serving.policy import Policy
from moesim.serving.replica import Replica
from moesim.serving.requests import FINISHED, REJECTED, Outcome, Requests, blank_outcome
from moesim.serving.roster import Elastic, Outage, Roster, SlowedSteps
from moesim.serving.steps import StepCost


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal servers. capacity: tokens of KV cache on one attention-DP rank. ranks: attention-DP ranks of a server.

    context: longest sequence of the model. swap_s_per_token: seconds to move the cache of a token to the host or back.
    """

    policy: Policy
    cost: StepCost
    capacity: float
    ranks: int = 1
    servers: int = 1
    context: float = math.inf
    swap_s_per_token: float = 0.0


@dataclass(frozen=True, slots=True)
class Frontend:
    """What stands between clients and servers. fixed_s: of the way there and back together. request_s: of one request
    in the serial part (tokenising, HTTP)."""

    fixed_s: float = 0.0
    request_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """All servers. prefill: the pool that computes prompts, None where every server of `pool` does both.

    transfer_s: seconds to hand over the cache of so many tokens; a prefill server sends one request at a time.
    balancer: a key of `BALANCERS`. frontend: before everything. outages: of servers of `pool`. elastic: how many of
    `pool`'s servers are up; None for all.
    """

    pool: Pool
    prefill: Pool | None = None
    transfer_s: Callable[[int], float] = lambda tokens: 0.0
    balancer: str = "least_loaded"
    frontend: Frontend = field(default_factory=Frontend)
    outages: tuple[Outage, ...] = ()
    elastic: Elastic | None = None


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


def round_robin(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """One after another."""
    return turn % len(servers)


def least_loaded(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """The server with the fewest requests in it; the first of several."""
    return min(range(len(servers)), key=lambda index: servers[index].in_system)


def kv_aware(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """The server whose cache holds most of the prompt, then the one with the fewest requests in it."""

    def worth(index: int) -> tuple[int, int]:
        server = servers[index]
        return -max(rank.cache.lookup(sequence.prefix) for rank in server.ranks), server.in_system

    return min(range(len(servers)), key=worth)


BALANCERS = {"round_robin": round_robin, "least_loaded": least_loaded, "kv_aware": kv_aware}


def decode_steps(outputs: np.ndarray, policy: Policy, rng: np.random.Generator) -> np.ndarray:
    """[request] steps that outputs need after the first token: one each, or fewer with multi-token prediction.

    A step gains 1 + (drafted tokens kept); sums of many such steps are nearly normal, so the number of steps to reach n
    tokens is drawn from N(n/μ, n·σ²/μ³) (the renewal theorem), at least n/(drafts + 1).
    """
    later = outputs - 1
    if not policy.draft_tokens or not policy.acceptance:
        return later
    kept = np.arange(policy.draft_tokens + 1)
    chance = policy.acceptance**kept * np.where(kept < policy.draft_tokens, 1 - policy.acceptance, 1.0)
    mean = float((chance * (kept + 1)).sum())
    variance = float((chance * (kept + 1 - mean) ** 2).sum())
    drawn = later / mean + np.sqrt(later * variance / mean**3) * rng.standard_normal(later.size)
    fewest = np.ceil(later / (policy.draft_tokens + 1))
    return np.clip(np.rint(drawn), fewest, later).astype(np.int64)


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
    """The clients, the front end and the balancer of one simulation."""

    def __init__(self, requests, fleet, rng, exact, queue_limit, journal_rows, progress):
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
            self.env.process(self._arrivals())
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
            self.journals.append(Journal(journal_rows))
            made.append(
                Replica(
                    self.env,
                    pool.policy,
                    cost,
                    capacity=pool.capacity,
                    context=pool.context,
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

    def _arrivals(self):
        for arrival in self.requests.arrival_s.tolist():
            if arrival > self.env.now:
                yield self.env.timeout(arrival - self.env.now)
            self._submit()
            if self._queue_limit is not None and self.front.queued() > self._queue_limit:
                self.stopped = "overloaded"
                self.done.succeed()
                return

    def _submit(self) -> None:
        """The next request leaves its client now."""
        index, now = self._sent, self.env.now
        self._sent += 1
        self._submitted[index] = now
        sequence = Sequence(
            index,
            self._inputs[index],
            self._outputs[index],
            self._steps[index],
            priority=self._priorities[index],
            prefix=self.requests.prefix[index] if self.requests.prefix else (),
            counts=index >= self.requests.warmup,
        )
        if not self._front[0].can_ever_hold(sequence) or not self._back[0].can_ever_hold(sequence):
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
