"""From a schedule to programs: every pipeline rank works through its tasks, messages carry activations and gradients.

A hand-over is one `Transfer` that the programs of both ranks share; it runs once for each microbatch. A receive is
posted one step ahead, as engines do whose sends and receives are asynchronous, so that a message flies while its
receiver still computes. A step of the schedule begins when the one before has ended, its last collective included:
frameworks launch the work of one microbatch after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from moesim.engine.program import Program
from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter
from moesim.workload.training.schedules import BACKWARD, FORWARD, INPUT, WEIGHT, Schedule, Task

After = tuple[int, ...]
# Writes the operations of one step's tasks: (emitter, rank, tasks, for each task what it waits for) -> for each task
# the operations that end it.
Writer = Callable[[Emitter, int, tuple[Task, ...], tuple[After, ...]], tuple[After, ...]]
# (path, position of the sender on it, phase) -> the message to the next place (forward) or the one before (backward).
Messages = Mapping[tuple[int, int, str], Transfer]


def pipeline_programs(
    schedule: Schedule, emitters: Sequence[Emitter], write: Writer, messages: Messages, finish: Callable | None = None
) -> list[Program]:
    """One program for each pipeline rank.

    emitters: [rank], which may hold operations that precede the first task. write: what a step's tasks consist of.
    finish: called as (emitter, rank, operations that end the last tasks) to append what follows them.
    """
    made = []
    for rank, emit in enumerate(emitters):
        stage = _Stage(schedule, rank, emit, write, messages)
        for step in schedule.orders[rank]:
            stage.run(step)
        if finish is not None:
            finish(emit, rank, stage.ended)
        made.append(emit.program())
    return made


@dataclass(slots=True, eq=False)
class _Stage:
    """Writes the program of one pipeline rank."""

    schedule: Schedule
    rank: int
    emit: Emitter
    write: Writer
    messages: Messages
    done: dict[Task, After] = field(default_factory=dict)  # what ends each forward and input-gradient task
    ended: After = ()  # operations that end the latest step
    before: After = ()  # and the one before it: a receive is posted when the latest step begins

    def run(self, step: tuple[Task, ...]) -> None:
        after = tuple((*self._received(task), *self._own(task), *self.ended) for task in step)
        ends = self.write(self.emit, self.rank, step, after)
        for task, end in zip(step, ends, strict=True):
            if task.phase != WEIGHT:
                self.done[Task(_direction(task), task.microbatch, task.chunk)] = end
                self._send(task, end)
        self.before, self.ended = self.ended, tuple(i for end in ends for i in end)

    def _own(self, task: Task) -> After:
        """A backward needs this rank's own forward, a weight gradient its input gradient."""
        if task.phase == FORWARD:
            return ()
        needed = BACKWARD if task.phase == WEIGHT else FORWARD
        return self.done[Task(needed, task.microbatch, task.chunk)]

    def _place(self, task: Task) -> tuple[int, int]:
        """(path, position on it) of a task."""
        path = self.schedule.path[task.microbatch]
        return path, self.schedule.paths[path].index((self.rank, task.chunk))

    def _received(self, task: Task) -> After:
        if task.phase == WEIGHT:
            return ()
        path, position = self._place(task)
        places = self.schedule.paths[path]
        source = position - 1 if task.phase == FORWARD else position + 1
        if not 0 <= source < len(places):
            return ()
        direction = _direction(task)
        if places[source][0] == self.rank:  # both parts are here: nothing is sent
            return self.done[Task(direction, task.microbatch, places[source][1])]
        message = self.messages[path, source, direction]
        return (self.emit.message(f"receive_{direction}", message, self.before),)

    def _send(self, task: Task, end: After) -> None:
        path, position = self._place(task)
        direction = _direction(task)
        target = position + 1 if direction == FORWARD else position - 1
        places = self.schedule.paths[path]
        if 0 <= target < len(places) and places[target][0] != self.rank:
            self.emit.message(f"send_{direction}", self.messages[path, position, direction], end)


def _direction(task: Task) -> str:
    return BACKWARD if task.phase == INPUT else task.phase
