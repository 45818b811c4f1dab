"""A job that works, saves, fails and goes on, as a SimPy process with books: every second is spent on one thing.

Steps are not events. A step is simulated once by the engine; here it is a number of seconds, and time passes from one
change to the next: a checkpoint, a failure, a straggler that comes or goes, a node that comes back. All seconds of the
run are booked under exactly one state of `STATES`, so they add up to the wall time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import simpy

from moesim.resilience.checkpoints import Checkpointing
from moesim.resilience.failures import Failure, FailureClass
from moesim.resilience.recovery import Loss, Response
from moesim.resilience.spares import SparePool

# work: at full speed, and kept. slowed: added by stragglers, slow links, missing ranks. lost: computed and rolled back.
STATES = ("work", "slowed", "lost", "checkpoint", "detection", "waiting", "restart", "rejoin")
# States in which no rank computes.
DOWN = ("detection", "waiting", "restart", "rejoin")
_CLOCK_S = 1e-6  # what floats resolve of a clock that runs for years
_MOST_FUTILE = 1000  # failures in a row without a new safe checkpoint, after which a run is given up
_MOST_FAILURES = 200_000


@dataclass(frozen=True, slots=True)
class Job:
    """What runs.

    devices: of the job. node_devices: of a server, the unit of replacement. work_s: seconds of undisturbed work after
    which it is done; None to run for `horizon_s`. horizon_s: longest wall time; None without a limit.
    """

    devices: int
    node_devices: int
    work_s: float | None
    horizon_s: float | None


@dataclass(frozen=True, slots=True)
class Operations:
    """How it is run. recover: one of `RECOVERIES` with its keys bound. measured: (slowdown, dropped share) of the step
    without one rank. spares: nodes at hand. detection_s: from a failure until the job knows. log: failures that happen
    besides those of the classes, in rising order."""

    classes: tuple[FailureClass, ...]
    checkpointing: Checkpointing
    recover: Callable[[Loss], Response]
    detection_s: float
    spares: int = 0
    measured: tuple[float, float] = (float("nan"), 0.0)
    log: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RunLog:
    """What became of a run. Times in seconds.

    wall_s: from start to end. spent: by state, adding up to wall_s. failures: by class. checkpoints: safe ones.
    dropped: mean over the run of the share of token-expert pairs dropped. stopped: why it ended early, or "".
    history: (second, state) of every change; ``slowed`` while the job works slower than undisturbed.
    """

    wall_s: float
    spent: dict[str, float]
    failures: dict[str, int]
    checkpoints: int
    dropped: float
    stopped: str
    history: tuple[tuple[float, str], ...]

    @property
    def goodput(self) -> float:
        """Share of the wall time that became kept work at full speed."""
        return self.spent["work"] / self.wall_s if self.wall_s else 0.0

    @property
    def availability(self) -> float:
        """Share of the wall time in which the job computes or saves."""
        return 1 - sum(self.spent[state] for state in DOWN) / self.wall_s if self.wall_s else 0.0


class JobProcess:
    """The job as a SimPy process, and the books of its seconds. pool: of replacement nodes, which jobs may share."""

    def __init__(self, env: simpy.Environment, job: Job, operations: Operations, pool: SparePool | None = None):
        self._env, self._job, self._operations = env, job, operations
        self._spent = dict.fromkeys(STATES, 0.0)
        self._history: list[tuple[float, str]] = []
        self._state, self._entered, self._factor = "work", 0.0, 1.0
        self._done = self._fresh = self._dropped_s = self._dropping = 0.0
        self._safe: list[tuple[float, float]] = [(0.0, 0.0)]  # (work saved, when it is safe), rising
        self._slow: list[tuple[float, float]] = []  # (until, slowdown)
        self._missing: list[tuple[float, int, Response]] = []  # (ready at, devices, how the job lives without)
        self._pending: list[Failure] = []
        self._pool = pool or SparePool(operations.spares)
        self._failures: Counter[str] = Counter()
        self._futile = self._checkpoints = 0
        self._best = 0.0
        self._stopped = ""
        self.process = env.process(self._run())

    def log(self) -> RunLog:
        """The books, closed now."""
        self._enter(self._state)
        wall = self._env.now
        history = tuple(self._history)
        dropped = self._dropped_s / wall if wall else 0.0
        return RunLog(wall, self._spent, dict(self._failures), self._checkpoints, dropped, self._stopped, history)

    def tell(self, failure: Failure) -> None:
        """Something failed now."""
        if not self.process.is_alive:
            return
        self._failures[failure.of.name] += 1
        if failure.of.slowdown:
            self._slow.append((self._env.now + failure.of.repair_s, failure.of.slowdown))
            if self._state == "work":
                self.process.interrupt()
        else:
            self._pending.append(failure)
            self.process.interrupt()

    # ------------------------------------------------------------------ the books

    def _enter(self, state: str, factor: float = 1.0) -> None:
        """Book the seconds since the last call, and change state. factor: step time over the undisturbed one."""
        passed = self._env.now - self._entered
        if self._state == "work":
            worked = passed / self._factor
            self._spent["work"] += worked
            self._spent["slowed"] += passed - worked
            self._done += worked
            self._fresh += worked
            self._dropped_s += passed * self._dropping
        else:
            self._spent[self._state] += passed
        shown = "slowed" if state == "work" and factor > 1 else state
        if not self._history or self._history[-1][1] != shown:
            self._history.append((self._env.now, shown))
        self._state, self._entered, self._factor = state, self._env.now, factor

    def _roll_back(self) -> None:
        """Work since the last safe checkpoint is lost; checkpoints that were still being written too."""
        self._enter(self._state)
        while self._safe[-1][1] > self._env.now:
            self._safe.pop()
        lost = self._done - self._safe[-1][0]
        self._spent["work"] -= lost
        self._spent["lost"] += lost
        self._done -= lost
        self._fresh = 0.0

    # ------------------------------------------------------------------ the job

    def _run(self) -> Iterator[simpy.Event]:
        while not self._stopped and not self._finished():
            try:
                yield from self._work()
                if not self._finished():
                    yield from self._save()
            except simpy.Interrupt:
                if self._pending:
                    yield from self._recover()

    def _finished(self) -> bool:
        return self._job.work_s is not None and self._done >= self._job.work_s - _CLOCK_S

    def _work(self) -> Iterator[simpy.Event]:
        """Compute until a checkpoint is due."""
        while not self._finished():
            yield from self._rejoin()
            left = self._operations.checkpointing.interval_s - self._fresh
            if self._job.work_s is not None:
                left = min(left, self._job.work_s - self._done)
            if left <= _CLOCK_S:
                return
            factor = self._slowness()
            change = min((until for until, *_ in (*self._slow, *self._missing)), default=np.inf)
            self._enter("work", factor)
            yield self._env.timeout(max(min(left * factor, change - self._env.now), 0.0))
            self._enter("work", factor)

    def _slowness(self) -> float:
        """Step time over the undisturbed one: ranks wait for the slowest, and do the work of missing ones beside."""
        self._slow = [(until, factor) for until, factor in self._slow if until > self._env.now]
        slowest = max((factor for _, factor in self._slow), default=1.0)
        # Each response knows all ranks that were missing when it was made: the latest one counts.
        self._dropping = self._missing[-1][2].dropped if self._missing else 0.0
        return slowest * (self._missing[-1][2].slowdown if self._missing else 1.0)

    def _save(self) -> Iterator[simpy.Event]:
        """A checkpoint: wait until the one before is safe, then stand still for its pause."""
        checkpointing = self._operations.checkpointing
        self._enter("checkpoint")
        unsafe = self._safe[-1][1] - self._env.now
        if unsafe > 0:
            yield self._env.timeout(unsafe)
        start = self._env.now
        yield self._env.timeout(checkpointing.pause_s)
        self._safe.append((self._done, start + max(checkpointing.write_s, checkpointing.pause_s)))
        self._safe = self._safe[-3:]
        self._checkpoints += 1
        self._fresh = 0.0
        self._enter("work", self._factor)

    def _rejoin(self) -> Iterator[simpy.Event]:
        """Nodes that are back are taken in again."""
        while back := [entry for entry in self._missing if entry[0] <= self._env.now]:
            self._enter("rejoin")
            yield self._env.timeout(max(response.rejoin_s for *_, response in back))
            self._missing = [entry for entry in self._missing if entry not in back]

    def _recover(self) -> Iterator[simpy.Event]:
        """Answer the failures that are pending; one that comes meanwhile starts the answer anew."""
        waits = rolls_back = False
        stop = ready = 0.0
        while True:
            for failure in self._pending:
                response, back = self._respond(failure)
                waits, rolls_back = waits or response.waits, rolls_back or response.rolls_back
                stop, ready = max(stop, response.stop_s), max(ready, back)
                self._missing.append((back, failure.of.devices, response))
            self._pending.clear()
            if rolls_back:
                self._roll_back()
            if self._given_up(rolls_back):
                return
            if waits:
                ready = max([ready, *(back for back, *_ in self._missing)])
                self._missing.clear()
            try:
                yield from self._stand(ready if waits else 0.0, stop, rolls_back)
            except simpy.Interrupt:
                continue
            self._missing = [entry for entry in self._missing if entry[0] > self._env.now]
            return

    def _respond(self, failure: Failure) -> tuple[Response, float]:
        """The policy's answer to one failure, and when its nodes are replaced."""
        nodes = -(-failure.of.devices // self._job.node_devices)
        self._pool.fail(nodes, failure.at_s + failure.of.repair_s)
        gone = min(failure.of.devices + sum(devices for _, devices, _ in self._missing), self._job.devices)
        loss = Loss(gone, self._job.devices, *self._operations.measured)
        return self._operations.recover(loss), self._pool.take(nodes)

    def _stand(self, ready_s: float, stop_s: float, rolls_back: bool) -> Iterator[simpy.Event]:
        self._enter("detection")
        yield self._env.timeout(self._operations.detection_s)
        self._enter("waiting")
        yield self._env.timeout(max(0.0, ready_s - self._env.now))
        self._enter("restart")
        yield self._env.timeout(stop_s + self._operations.checkpointing.load_s * rolls_back)

    def _given_up(self, rolls_back: bool) -> bool:
        reached = self._safe[-1][0] if rolls_back else self._done
        if reached > self._best:
            self._best, self._futile = reached, 0
        self._futile += 1
        if self._futile > _MOST_FUTILE:
            self._stopped = f"no progress: {_MOST_FUTILE} failures in a row without a new safe checkpoint"
        elif sum(self._failures.values()) > _MOST_FAILURES:
            self._stopped = f"given up after {_MOST_FAILURES} failures"
        return bool(self._stopped)
