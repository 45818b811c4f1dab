"""Pipeline schedules: in which order each stage works through the microbatches.

A schedule is a function in `SCHEDULES` from (stages, microbatches) to a `Schedule`; its keyword-only arguments are the
keys that a scenario sets under ``schedule:``. It knows no times: what waits for what, and hence every bubble, comes out
of the engine. Formulas in the docstrings hold for equal stages and a free network; F, B and W are the times of a
stage's forward, whole backward and weight-gradient work on one microbatch, p stages, m microbatches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesim.errors import InvalidInput, Problem

FORWARD, BACKWARD, INPUT, WEIGHT = "forward", "backward", "input", "weight"


@dataclass(frozen=True, slots=True)
class Task:
    """Work of one rank on one microbatch.

    phase: ``forward``, ``backward`` (for inputs and weights together), ``input`` or ``weight`` (its two halves).
    chunk: which of the rank's parts of the model.
    """

    phase: str
    microbatch: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Orders of work. Ranks here are pipeline ranks.

    orders: [rank][step] tasks; two in one step are a forward and a backward that run interleaved.
    paths: each the (rank, chunk) places that a microbatch passes going forward, from embedding to head.
    path: [microbatch] index into paths. chunks: parts of the model that a rank holds.
    """

    orders: tuple[tuple[tuple[Task, ...], ...], ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]
    path: tuple[int, ...]

    @property
    def chunks(self) -> int:
        """Parts of the model that each rank holds."""
        return 1 + max(chunk for path in self.paths for _, chunk in path)

    @property
    def virtual_stages(self) -> int:
        """Parts that the model is cut into."""
        return len(self.paths[0])

    def in_flight(self, rank: int) -> int:
        """Most chunk passes whose activations a rank keeps at once, weight-gradient work counted as their end."""
        most = now = 0
        for step in self.orders[rank]:
            now += sum(task.phase == FORWARD for task in step)
            most = max(most, now)
            now -= sum(task.phase in (BACKWARD, WEIGHT) for task in step)
        return most


def gpipe(stages: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards (Huang et al. 2019). Bubble (p − 1)/(m + p − 1) of the step."""
    order = [(Task(FORWARD, m),) for m in range(microbatches)] + [(Task(BACKWARD, m),) for m in range(microbatches)]
    return _straight([order] * stages, microbatches)


def one_forward_one_backward(stages: int, microbatches: int, *, pairs: bool = False) -> Schedule:
    """1F1B: as early backwards as can be (PipeDream-Flush, Narayanan et al. 2021). GPipe's bubble, min(p − rank, m)
    microbatches in flight. pairs: each forward runs beside a backward, one more microbatch ahead, so that the exchanges
    of one hide behind the products of the other."""
    return _straight([_one_f_one_b(stages, rank, microbatches, pairs) for rank in range(stages)], microbatches)


def interleaved(stages: int, microbatches: int, *, virtual_stages: int = 2, pairs: bool = False) -> Schedule:
    """Interleaved 1F1B: each rank holds `virtual_stages` parts (Narayanan et al. 2021). Bubble (p − 1)(F + B)/v.
    pairs: as in `1f1b` (Megatron's overlap of expert-parallel exchanges)."""
    if virtual_stages == 1 or stages == 1:
        return one_forward_one_backward(stages, microbatches, pairs=pairs)
    if microbatches % stages:
        raise _too_few(microbatches, f"interleaved needs a multiple of the {stages} stages (parallelism.pp)")
    chunks, total = virtual_stages, microbatches * virtual_stages

    def task(position: int, phase: str) -> Task:
        group, inside = divmod(position, stages * chunks)
        chunk = inside // stages
        chunk = chunk if phase == FORWARD else chunks - 1 - chunk
        return Task(phase, group * stages + inside % stages, chunk)

    orders = []
    for rank in range(stages):
        warmup = min(2 * (stages - rank - 1) + (chunks - 1) * stages + pairs, total)
        order = [(task(k, FORWARD),) for k in range(warmup)]
        for k in range(total - warmup):
            order += _beside(task(warmup + k, FORWARD), task(k, BACKWARD), pairs)
        order += [(task(k, BACKWARD),) for k in range(total - warmup, total)]
        orders.append(order)
    path = tuple((rank, chunk) for chunk in range(chunks) for rank in range(stages))
    return _frozen(orders, (path,), [0] * microbatches)


def zero_bubble(stages: int, microbatches: int) -> Schedule:
    """ZB-H1: 1F1B whose weight-gradient work fills bubbles (Qi et al. 2024). Bubble (p − 1)(F + B − 2W), memory of
    1F1B's first stage on every rank."""
    orders = []
    for rank in range(stages):
        order: list[tuple[Task, ...]] = []
        started = done = 0
        for (task,) in _one_f_one_b(stages, rank, microbatches, pairs=False):
            if task.phase == FORWARD:
                order.append((task,))
                continue
            order.append((Task(INPUT, task.microbatch),))
            started += 1
            if started > rank:  # later ranks wait less for gradients, and keep work for the end
                order.append((Task(WEIGHT, done),))
                done += 1
        order += [(Task(WEIGHT, m),) for m in range(done, microbatches)]
        orders.append(order)
    return _straight(orders, microbatches)


def dualpipe(stages: int, microbatches: int) -> Schedule:
    """DualPipe: microbatches from both ends, forwards beside backwards (DeepSeek-V3 report, section 3.2.1).

    Every rank holds two stages: its own and that of its mirror image. Bubble (p/2 − 1)(F&B + F − 2W), F&B being the
    time of a forward beside a backward; this is the report's (p/2 − 1)(F&B + B − 3W) where F = W = B/2. The order is
    that of the repository deepseek-ai/DualPipe.
    """
    if stages % 2:
        raise InvalidInput(Problem(f"DualPipe needs an even number of stages, not {stages}", "parallelism.pp"))
    if microbatches % 2 or microbatches < 2 * stages:
        raise _too_few(
            microbatches, f"DualPipe needs an even number, at least twice the {stages} stages (parallelism.pp)"
        )
    half = microbatches // 2
    orders = [_dualpipe_rank(stages, rank, half) for rank in range(stages)]
    down = tuple((rank, 0) for rank in range(stages))
    up = tuple((rank, 1) for rank in reversed(range(stages)))
    return _frozen(orders, (down, up), [0] * half + [1] * half)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zero_bubble": zero_bubble,
    "dualpipe": dualpipe,
}


def _one_f_one_b(stages: int, rank: int, microbatches: int, pairs: bool) -> list[tuple[Task, ...]]:
    warmup = min(stages - rank - 1 + pairs, microbatches)
    order = [(Task(FORWARD, m),) for m in range(warmup)]
    for m in range(microbatches - warmup):
        order += _beside(Task(FORWARD, warmup + m), Task(BACKWARD, m), pairs)
    return order + [(Task(BACKWARD, m),) for m in range(microbatches - warmup, microbatches)]


def _beside(forward: Task, backward: Task, pairs: bool) -> list[tuple[Task, ...]]:
    return [(forward, backward)] if pairs else [(forward,), (backward,)]


class _Dual:
    """Hands out the tasks of one DualPipe rank in order. Direction 0 comes from the nearer end of the pipeline."""

    def __init__(self, swapped: bool, half: int):
        self._swapped, self._half = swapped, half
        self._next = {(phase, direction): 0 for phase in (FORWARD, BACKWARD) for direction in (0, 1)}
        self._delayed: list[Task] = []  # weight-gradient work that was put off
        self.steps: list[tuple[Task, ...]] = []

    def _take(self, phase: str, direction: int) -> Task:
        number = self._next[phase, direction]
        self._next[phase, direction] += 1
        chunk = direction ^ self._swapped
        return Task(phase, number + chunk * self._half, chunk)

    def forward(self, direction: int) -> None:
        self.steps.append((self._take(FORWARD, direction),))

    def backward(self, direction: int, split: bool = False) -> None:
        task = self._take(BACKWARD, direction)
        if split:
            self._delayed.append(Task(WEIGHT, task.microbatch, task.chunk))
            task = Task(INPUT, task.microbatch, task.chunk)
        self.steps.append((task,))

    def both(self, forward: int, backward: int) -> None:
        self.steps.append((self._take(FORWARD, forward), self._take(BACKWARD, backward)))

    def weight(self) -> None:
        self.steps.append((self._delayed.pop(0),))


def _dualpipe_rank(stages: int, rank: int, half: int) -> list[tuple[Task, ...]]:
    near = min(rank, stages - 1 - rank)  # distance from the nearer end
    inner = stages // 2 - near - 1  # ranks between this one and the middle
    do = _Dual(rank >= stages // 2, half)
    for _ in range(2 * inner):
        do.forward(0)
    for _ in range(near + 1):
        do.forward(0)
        do.forward(1)
    for _ in range(inner):
        do.backward(1, split=True)
        do.weight()
        do.forward(1)
    for step in range(half - stages + near + 1):
        if step == 0 and inner == 0:  # the two middle ranks feed each other: nothing to run beside
            do.forward(0)
            do.backward(1)
        else:
            do.both(0, 1)
        do.both(1, 0)
    for _ in range(inner):
        do.backward(1)
        do.both(1, 0)
    for step in range(near + 1):
        middle = (near + 1) // 2
        do.backward(1, split=step > middle or (step == middle and near % 2 == 1))
        do.backward(0, split=step >= middle)
    for _ in range(inner):
        do.weight()
        do.backward(0, split=True)
    for _ in range(near + 1):
        do.weight()
    return do.steps


def _straight(orders: list[list[tuple[Task, ...]]], microbatches: int) -> Schedule:
    return _frozen(orders, (tuple((rank, 0) for rank in range(len(orders))),), [0] * microbatches)


def _frozen(orders: list, paths: tuple, path: list[int]) -> Schedule:
    return Schedule(tuple(tuple(order) for order in orders), paths, tuple(path))


def _too_few(microbatches: int, need: str) -> InvalidInput:
    return InvalidInput(
        Problem(
            f"there are {microbatches} microbatches a replica (global_batch / microbatch / dp), and {need}; "
            "change global_batch, microbatch or pp",
            "workload.global_batch",
        )
    )
