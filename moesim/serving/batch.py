"""What a server keeps of its requests and of the steps under way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moesim.serving.steps import Prefill

if TYPE_CHECKING:
    from moesim.serving.rank import Rank

_NO_PREFIX: tuple[int, ...] = ()


class Sequence:
    """A request inside a server.

    prompt: tokens to have in the cache before its next token. left: those still to compute. steps: decode steps that it
    still needs then. slowness: 1/(output length − 1), or 0 when its times do not count. waits: no first token yet.
    joined, finish: of the server's decode steps, counted from its start, those at which it began and will end; finish
    is −1 while it does not decode. held: tokens of its cache on the host.
    """

    __slots__ = (
        "finish", "held", "index", "joined", "left", "outputs", "prefix", "priority", "prompt", "rank", "slowness",
        "steps", "waits",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        prompt: int,
        outputs: int,
        steps: int,
        priority: int = 0,
        prefix: tuple[int, ...] = _NO_PREFIX,
        counts: bool = True,
    ):
        self.index = index
        self.prompt = self.left = prompt
        self.outputs = outputs
        self.steps = steps
        self.priority = priority
        self.prefix = prefix
        self.slowness = 1.0 / (outputs - 1) if counts and outputs > 1 else 0.0
        self.waits = counts
        self.finish = -1
        self.rank: Rank | None = None
        self.joined = 0
        self.held = 0.0


Chunk = tuple[Sequence, int]
"""Tokens of a prompt that one step computes."""


class StepRun:
    """Steps that differ only in their context: the first takes first_s, the last last_s, those between lie on a line.

    extra_s: once at the beginning. chunks, prefill: prompts of the (then only) step. sequences, context: decoding on
    the busiest rank at its start. waiting, slowness, kv_share: as in the journal, at its start.
    """

    __slots__ = (
        "chunks", "context", "end_s", "extra_s", "first_s", "kv_share", "last_s", "prefill", "sequences", "slowness",
        "start_s", "steps", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        start_s: float,
        steps: int,
        first_s: float,
        last_s: float,
        extra_s: float,
        sequences: int,
        context: float,
        chunks: list[Chunk] | None = None,
        prefill: Prefill | None = None,
    ):
        self.start_s, self.steps, self.first_s, self.last_s, self.extra_s = start_s, steps, first_s, last_s, extra_s
        self.sequences, self.context, self.chunks, self.prefill = sequences, context, chunks, prefill
        self.waiting = self.slowness = self.kv_share = 0.0
        self.end_s = start_s + extra_s + steps * (first_s + last_s) / 2

    def steps_by(self, now: float) -> int:
        """Steps that have ended at the first boundary from `now` on, at least one."""
        passed = now - self.start_s - self.extra_s
        slope = (self.last_s - self.first_s) / (self.steps - 1)
        # n steps take n·first + slope·n(n − 1)/2: solve for n.
        b = self.first_s - slope / 2
        if passed <= 0:
            return 1
        n = passed / b if slope <= 1e-9 * b else (math.sqrt(b * b + 2 * slope * passed) - b) / slope
        return min(self.steps, max(1, math.ceil(n - 1e-9)))

    def cut(self, steps: int) -> None:
        """End after the first `steps` steps."""
        slope = (self.last_s - self.first_s) / (self.steps - 1)
        self.last_s = self.first_s + slope * (steps - 1)
        self.steps = steps
        self.end_s = self.start_s + self.extra_s + steps * (self.first_s + self.last_s) / 2
