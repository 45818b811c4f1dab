"""One server on the SimPy engine: continuous batching with its queue, its steps and its KV cache.

Steps are not events. Between two changes of the batch every decode step is like the one before with a longer context,
so a *run* of such steps is one timeout: its seconds are the trapezoid of its first and last step. Runs end where
something changes: a request finishes, one can be admitted, the cache is full. A request that arrives during a run cuts
it at the next step boundary. `exact` makes every run one step long.

Nearly all of a simulated day is spent in `submit`, `_begin` and `_end`: what they call is written for speed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import simpy

from moesim.serving.admission import Admission
from moesim.serving.batch import Chunk, Sequence, StepRun
from moesim.serving.journal import Journal
from moesim.serving.policy import Policy
from moesim.serving.rank import Rank
from moesim.serving.steps import STEPS_PER_DRAW, Prefill, StepCost
from moesim.serving.waiting import Waiting


class Replica:
    """One server. `submit` hands a sequence in; the callbacks tell of first tokens, ends and preemptions.

    capacity: tokens of KV cache on one attention-DP rank. block_tokens: of the hashed blocks of prefixes.
    swap_s_per_token: seconds to move a token's cache to the host or back. journal: takes every run.
    """

    def __init__(
        self,
        env: simpy.Environment,
        policy: Policy,
        cost: StepCost,
        *,
        capacity: float,
        ranks: int = 1,
        journal: Journal,
        on_first_token: Callable[[Sequence, Replica], None],
        on_finish: Callable[[Sequence, Replica], None],
        on_preempt: Callable[[Sequence], None] = lambda sequence: None,
        on_cached: Callable[[Sequence, int], None] = lambda sequence, tokens: None,
        block_tokens: int = 16,
        swap_s_per_token: float = 0.0,
        exact: bool = False,
    ):
        self.env = env
        self.in_system = 0
        self.ranks = [Rank(policy, capacity, block_tokens) for _ in range(ranks)]
        self._policy, self._cost, self._draws, self._exact = policy, cost, cost.draws, exact
        self._journal = journal
        self._on_first_token, self._on_finish, self._on_preempt = on_first_token, on_finish, on_preempt
        self._swap_s_per_token = swap_s_per_token
        self._gain = policy.tokens_per_step
        self._width = 1 + policy.draft_tokens
        self._poll_interval = policy.poll_interval
        self._waiting = Waiting(policy.order)
        self._admission = Admission(
            policy,
            self.ranks,
            self._waiting,
            ready=self._ready,
            on_cached=on_cached,
            swap_s_per_token=swap_s_per_token,
        )
        self._ends: list[tuple[int, int, Sequence]] = []
        self._count = 0  # decode steps so far
        self._since_poll = 0
        self._total = 0  # decoding on all ranks
        self._unserved = 0  # requests without a first token
        self._slowness = 0.0
        self._late, self._late_s = 0, 0.0  # requests that came during the run, and the sum of their arrivals
        self._run: StepRun | None = None
        self._timeout: simpy.Event | None = None  # at the end of the run
        self._in_boundary = False

    # ------------------------------------------------------------------ arrivals

    def submit(self, sequence: Sequence) -> None:
        """A request arrives now. One whose prompt is in the cache already (left = 0) only needs memory."""
        now = self.env.now
        self.in_system += 1
        self._waiting.inbox.append(sequence)
        if sequence.waits:
            self._unserved += 1
            self._late += 1
            self._late_s += now
        if self._in_boundary:
            return
        run = self._run
        if run is None:
            self._begin()
        elif run.steps > 1 and not self._waiting.stands_behind_others():
            for rank in self.ranks:
                if rank.fits(sequence):
                    self._cut(run, now)
                    return

    def queued(self) -> int:
        """Requests that wait for admission."""
        return len(self._waiting)

    def kv_tokens(self) -> float:
        """Tokens in the caches of all ranks."""
        return sum(rank.context + rank.promised for rank in self.ranks)

    # ------------------------------------------------------------------ runs

    def _cut(self, run: StepRun, now: float) -> None:
        """End the run at the first step boundary, from now on, at which the server looks for requests."""
        done = run.steps_by(now)
        every = self._poll_interval
        if every > 1:
            done += -(self._since_poll + done) % every
        if done < run.steps:
            run.cut(done)
            self._start(run)

    def _start(self, run: StepRun) -> None:
        self._run = run
        delay = run.end_s - self.env.now
        self._timeout = timeout = self.env.timeout(delay if delay > 0 else 0.0)
        timeout.callbacks.append(self._end)

    def _begin(self) -> None:
        """Form the next step at a boundary."""
        waiting, admission = self._waiting, self._admission
        if waiting.inbox and not (self._since_poll and self._total):
            self._since_poll = 0
            waiting.look()
        chunks = admission.chunks(self._total) if waiting.queue or admission.partials else None
        extra, admission.swapped_s = admission.swapped_s, 0.0
        if chunks:
            run = self._prefill_run(chunks, extra)
        else:
            if not self._total:
                self._run = None
                self._recover_idle()
                return
            left = self._steps_left()
            if not self._total:
                self._begin()  # what lost its cache may be admitted again
                return
            run = self._decode_run(left, extra)
        run.waiting, run.slowness = self._unserved, self._slowness
        ranks = self.ranks
        run.kv_share = ranks[0].share() if len(ranks) == 1 else max([rank.share() for rank in ranks])
        self._late, self._late_s = 0, 0.0
        self._start(run)

    def _recover_idle(self) -> None:
        """Nothing runs, yet something waits: it came while the server looked elsewhere, or is held."""
        if self._waiting.inbox or (self._waiting.queue and self._admission.held_steps):
            self._since_poll = self._admission.held_steps = 0
            self._begin()

    def _prefill_run(self, chunks: list[Chunk], extra: float) -> StepRun:
        ranks = self.ranks
        if len(ranks) == 1:
            tokens, attended = 0, 0.0
            for sequence, take in chunks:
                tokens += take
                attended += take * (sequence.prompt - sequence.left + (take + 1) / 2)
            prefill = Prefill(tokens, tokens, attended, len(chunks))
        else:
            prefill = _busiest_prefill(chunks)
        sequences, context, total = 0, 0.0, 0
        if self._total and self._policy.prefill == "mixed":
            self._steps_left()
            sequences, context, total = *self._busiest(), self._total
        seconds = self._cost.mixed_s(sequences * self._width, total * self._width, context, prefill)
        return StepRun(self.env.now, 1, seconds, seconds, extra, sequences, context, chunks, prefill)

    def _decode_run(self, left: int, extra: float) -> StepRun:
        sequences, context = self._busiest()
        steps, growth = self._steps_alike(left, sequences, context)
        draw = self._count // STEPS_PER_DRAW % self._draws if self._draws > 1 else 0
        batch, total = sequences * self._width, self._total * self._width
        first = last = self._cost.decode_s(batch, total, context, draw)
        if steps > 1:
            last = self._cost.decode_s(batch, total, context + growth * (steps - 1), draw)
        return StepRun(self.env.now, steps, first, last, extra, sequences, context)

    def _steps_left(self) -> int:
        """Decode steps until the cache of a rank is full, at least one: where one is full now, room is made."""
        fewest = math.inf
        for rank in self.ranks:
            if rank.sequences:
                left = rank.steps_left()
                if left < 1:
                    self._make_room(rank)
                    left = max(1, rank.steps_left()) if rank.sequences else math.inf
                if left < fewest:
                    fewest = left
        return fewest

    def _steps_alike(self, left: int, sequences: int, context: float) -> tuple[int, float]:
        """(decode steps until something must change, tokens by which the fullest rank grows in each).

        Their seconds lie on a straight line: steps end where the cost has a bend, or another rank becomes the fullest.
        left: steps until the cache is full.
        """
        if self._exact:
            return 1, 0.0
        ends, ranks, gain = self._ends, self.ranks, self._gain
        while ends[0][2].finish != ends[0][0]:
            heapq.heappop(ends)
        steps = ends[0][0] - self._count
        if left < steps:
            steps = left
        if self._waiting.inbox and self._poll_interval > 1:
            steps = min(steps, self._poll_interval - self._since_poll)
        if self._admission.held_steps:
            steps = min(steps, max(1, self._policy.hold_steps - self._admission.held_steps))
        if self._draws > 1:
            steps = min(steps, STEPS_PER_DRAW - self._count % STEPS_PER_DRAW)
        if steps <= 1:
            return 1, 0.0
        growing = sequences
        if len(ranks) > 1:
            growing = max(rank.sequences for rank in ranks if rank.context == context)
            for rank in ranks:
                if rank.sequences > growing:
                    apart = (context - rank.context) / (gain * (rank.sequences - growing))
                    steps = min(steps, math.floor(apart) + 1)
        growth = gain * growing
        straight = (self._cost.bend(sequences * self._width, context) - context) / growth
        if straight < steps:
            steps = math.floor(straight) + 1
        return max(1, steps), growth

    def _busiest(self) -> tuple[int, float]:
        ranks = self.ranks
        if len(ranks) == 1:
            return ranks[0].sequences, ranks[0].context
        return max(rank.sequences for rank in ranks), max(rank.context for rank in ranks)

    # ------------------------------------------------------------------ ends of runs

    def _end(self, timeout: simpy.Event) -> None:
        if timeout is not self._timeout:
            return  # the run was cut
        run = self._run
        self._in_boundary = True
        self._log(run)
        chunks = run.chunks
        if not chunks or run.sequences:
            self._advance(run.steps)
        if chunks:
            for sequence, take in chunks:
                sequence.left -= take
                if sequence.left == 0 and sequence.rank is not None:
                    self._ready(sequence)
            self._admission.computed()
            self._since_poll = 0
        if self._ends and self._ends[0][0] <= self._count:
            self._finish_due()
        self._in_boundary = False
        self._begin()

    def _log(self, run: StepRun) -> None:
        sequences = run.sequences
        total = self._total if sequences else 0
        middle = run.context + self._gain * sequences * (run.steps - 1) / 2
        draw = self._count // STEPS_PER_DRAW % self._draws if self._draws > 1 else 0
        hottest = self._cost.hottest(sequences * self._width, total * self._width, draw) if total else 1.0
        tokens, prefilled, attended, prompts = run.prefill or _NO_PREFILL
        self._journal.add(
            (
                run.start_s, run.end_s, run.steps, sequences, total, middle, tokens, prefilled, attended, prompts,
                run.waiting, self._late, self._late_s, run.slowness, run.kv_share, hottest,
            )
        )  # fmt: skip

    def _advance(self, steps: int) -> None:
        self._count += steps
        if self._poll_interval > 1:
            self._since_poll = (self._since_poll + steps) % self._poll_interval
        if self._admission.held_steps:
            self._admission.held_steps += steps
        for rank in self.ranks:
            grown = rank.sequences * steps * self._gain
            rank.context += grown
            rank.reserved -= grown

    def _ready(self, sequence: Sequence) -> None:
        """A prompt is in the cache: its first token is out, and it decodes from now on."""
        rank = sequence.rank
        rank.promised -= sequence.prompt
        if sequence.waits:
            sequence.waits = False
            self._unserved -= 1
        if sequence.prefix and self._policy.prefix_caching:
            rank.cache.insert(sequence.prefix, rank.capacity - rank.used())
        sequence.joined = self._count
        sequence.finish = finish = self._count + sequence.steps
        rank.sequences += 1
        rank.context += sequence.prompt + 1
        self._total += 1
        self._slowness += sequence.slowness
        heapq.heappush(self._ends, (finish, sequence.index, sequence))
        self._on_first_token(sequence, self)

    def _finish_due(self) -> None:
        ends, count = self._ends, self._count
        while ends and ends[0][0] <= count:
            finish, _, sequence = heapq.heappop(ends)
            if sequence.finish == finish:
                self._leave(sequence)
                self.in_system -= 1
                self._on_finish(sequence, self)

    def release(self, sequence: Sequence) -> None:
        """Take a request out right after its first token: another server decodes it."""
        self._leave(sequence)
        self.in_system -= 1

    def _leave(self, sequence: Sequence) -> None:
        rank, count = sequence.rank, self._count
        rank.sequences -= 1
        rank.context -= sequence.prompt + 1 + (count - sequence.joined) * self._gain
        rank.reserved -= (sequence.finish - count) * self._gain
        del rank.running[sequence]
        self._total -= 1
        self._slowness -= sequence.slowness
        sequence.finish = -1
        sequence.rank = None
        if not rank.sequences:
            rank.context = 0.0  # sums of fractions do not cancel exactly

    # ------------------------------------------------------------------ preemption and failure

    def _make_room(self, rank: Rank) -> None:
        """Take the cache from the latest requests until the rank can decode one more step."""
        while rank.sequences and rank.steps_left() < 1:
            victim = next((s for s in reversed(rank.running) if s.finish >= 0), None)
            if victim is None or len(rank.running) == 1:
                break
            self._preempt(victim)

    def _preempt(self, sequence: Sequence) -> None:
        steps = sequence.finish - self._count
        tokens = self._tokens_of(sequence)
        self._leave(sequence)
        sequence.prompt, sequence.steps = tokens, steps
        if self._policy.preemption == "swap":
            sequence.left, sequence.held = 0, tokens
            self._admission.swapped_s += tokens * self._swap_s_per_token
        else:
            sequence.left = tokens
        self._waiting.put_back(sequence)
        self._on_preempt(sequence)

    def _tokens_of(self, sequence: Sequence) -> int:
        """Tokens of a decoding request: its prompt, its first token and what it gained since."""
        return sequence.prompt + 1 + math.ceil((self._count - sequence.joined) * self._gain)

    def recheck(self) -> None:
        """Steps take another time from now on: end the run of equal steps at its next boundary."""
        if self._run is not None and self._run.steps > 1:
            self._cut(self._run, self.env.now)

    def evict(self) -> list[Sequence]:
        """Everything in the server leaves it now, oldest first, as when it dies: its caches are lost.

        Tokens of steps that have ended are kept; with the prompt they have to be computed anew elsewhere.
        """
        run, self._run, self._timeout = self._run, None, None
        self._in_boundary = True
        if run is not None and run.steps > 1:
            self._advance(max(run.steps_by(self.env.now) - 1, 0))
            self._finish_due()
        self._in_boundary = False
        leaving: list[Sequence] = []
        for rank in self.ranks:
            for sequence in list(rank.running):
                if sequence.finish >= 0:
                    tokens, steps = self._tokens_of(sequence), sequence.finish - self._count
                    self._leave(sequence)
                    sequence.prompt, sequence.steps = tokens, steps
                else:
                    del rank.running[sequence]
                    sequence.rank = None
                sequence.left, sequence.held = sequence.prompt, 0.0
                leaving.append(sequence)
            rank.promised = rank.reserved = 0.0
            rank.cache.shrink(0)
        leaving += self._waiting.empty()
        self._admission.partials.clear()
        self._ends.clear()
        self.in_system = self._unserved = self._since_poll = self._admission.held_steps = 0
        self._late, self._late_s, self._admission.swapped_s = 0, 0.0, 0.0
        return leaving


_NO_PREFILL = Prefill(0, 0, 0.0, 0)


def _busiest_prefill(chunks: list[Chunk]) -> Prefill:
    """The prompts' part of a step of several ranks."""
    tokens: dict[Rank, int] = {}
    attended: dict[Rank, float] = {}
    for sequence, take in chunks:
        rank, before = sequence.rank, sequence.prompt - sequence.left
        tokens[rank] = tokens.get(rank, 0) + take
        attended[rank] = attended.get(rank, 0.0) + take * (before + (take + 1) / 2)
    return Prefill(max(tokens.values()), sum(tokens.values()), max(attended.values()), len(chunks))
