"""What a server keeps of its requests, of its attention-DP ranks and of the steps under way."""

from __future__ import annotations

import math

from moesim.serving.prefixes import PrefixCache

_NO_PREFIX: tuple[int, ...] = ()


class Sequence:
    """A request inside a server.

    prompt: tokens to have in the cache before its next token. left: those still to compute. steps: decode steps that it
    still needs then. slowness: 1/(output length − 1), or 0 when its times do not count. waits: no first token yet.
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
        *,
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


class Rank:
    """One attention-DP rank: tokens are those in its cache or promised to a request."""

    __slots__ = ("cache", "context", "promised", "reserved", "running", "sequences")

    def __init__(self, block_tokens: int):
        self.sequences = 0  # decoding
        self.context = 0.0  # tokens of the decoding ones
        self.promised = 0.0  # prompt tokens of those in prefill
        self.reserved = 0.0  # decode tokens still to come of all admitted
        self.running: dict[Sequence, None] = {}  # admitted, in order
        self.cache = PrefixCache(block_tokens)


class StepRun:
    """Steps that differ only in their context: the first takes first_s, the last last_s, those between lie on a line.

    extra_s: once at the beginning. chunks, prefill: prompts of the (then only) step. sequences, context: decoding on
    the busiest rank at its start. waiting, slowness, kv_share: as in the journal, at its start.
    """

    __slots__ = (
        "chunks", "context", "end_s", "extra_s", "first_s", "kv_share", "last_s", "prefill", "sequences", "slowness",
        "start_s", "steps", "waiting",
    )  # fmt: skip

    def __init__(self, start_s, steps, first_s, last_s, extra_s, chunks, prefill, sequences, context):
        self.start_s, self.steps, self.first_s, self.last_s, self.extra_s = start_s, steps, first_s, last_s, extra_s
        self.chunks, self.prefill, self.sequences, self.context = chunks, prefill, sequences, context
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

    def shortened(self, steps: int) -> StepRun:
        """The first `steps` steps of this run."""
        slope = (self.last_s - self.first_s) / (self.steps - 1)
        last = self.first_s + slope * (steps - 1)
        run = StepRun(
            self.start_s,
            steps,
            self.first_s,
            last,
            self.extra_s,
            self.chunks,
            self.prefill,
            self.sequences,
            self.context,
        )
        run.waiting, run.slowness, run.kv_share = self.waiting, self.slowness, self.kv_share
        return run
