"""One server on the SimPy engine: continuous batching with its queue, its steps and its KV cache.

Steps are not events. Between two changes of the batch every decode step is like the one before with a longer context,
so a *run* of such steps is one timeout: its seconds are the trapezoid of its first and last step. Runs end where
something changes: a request finishes, one can be admitted, the cache is full. A request that arrives during a run cuts
it at the next step boundary. `exact` makes every run one step long.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable

import simpy

from moesim.serving.batch import Rank, Sequence, StepRun
from moesim.serving.journal import Journal
from moesim.serving.policy import Policy
from moesim.serving.steps import STEPS_PER_DRAW, Prefill, StepCost


class Replica:
    """One server. `submit` hands a sequence in; the callbacks tell of first tokens, ends and preemptions.

    capacity: tokens of KV cache on one attention-DP rank. context: longest sequence of the model.
    block_tokens: of the hashed blocks of prefixes.
    swap_s_per_token: seconds to move a token's cache to the host or back.
    """

    def __init__(
        self,
        env: simpy.Environment,
        policy: Policy,
        cost: StepCost,
        *,
        capacity: float,
        context: float = math.inf,
        ranks: int = 1,
        journal: Journal | None = None,
        on_first_token: Callable[[Sequence, Replica], None],
        on_finish: Callable[[Sequence, Replica], None],
        on_preempt: Callable[[Sequence], None] = lambda sequence: None,
        on_cached: Callable[[Sequence, int], None] = lambda sequence, tokens: None,
        block_tokens: int = 16,
        swap_s_per_token: float = 0.0,
        exact: bool = False,
    ):
        self.env = env
        self.policy = policy
        self.capacity = capacity
        self._longest = min(context, capacity - (policy.block_tokens - 1) / 2)
        self.in_system = 0
        self.ranks = [Rank(block_tokens) for _ in range(ranks)]
        self._cost, self._draws = cost, cost.draws
        self._journal = journal
        self._on_first_token, self._on_finish = on_first_token, on_finish
        self._on_preempt, self._on_cached = on_preempt, on_cached
        self._swap_s_per_token = swap_s_per_token
        self._exact = exact
        self._gain = policy.tokens_per_step
        self._width = 1 + policy.draft_tokens
        # A page is half empty on average in a sequence's last block.
        self._partial = (policy.block_tokens - 1) / 2
        self._inbox: deque[Sequence] = deque()  # arrived, not yet seen
        self._queue: deque[Sequence] | list = deque() if policy.order == "fcfs" else []
        self._partials: deque[Sequence] = deque()  # prompts cut by the budget
        self._ends: list[tuple[int, int, Sequence]] = []
        self._count = 0  # decode steps so far
        self._since_poll = 0
        self._held = 0
        self._turn = 0
        self._total = 0  # decoding on all ranks
        self._waiting = 0
        self._slowness = 0.0
        self._extra_s = 0.0
        self._late = self._late_s = 0.0
        self._run: StepRun | None = None
        self._in_boundary = False

    # ------------------------------------------------------------------ arrivals

    def submit(self, sequence: Sequence) -> None:
        """A request arrives now. One whose prompt is in the cache already (left = 0) only needs memory."""
        now = self.env.now
        self.in_system += 1
        self._inbox.append(sequence)
        if sequence.waits:
            self._waiting += 1
            self._late += 1
            self._late_s += now
        if self._run is None:
            if not self._in_boundary:
                self._begin()
        elif self._run.steps > 1 and not self._run.prefill and self._may_admit(sequence):
            self._cut(now)

    def queued(self) -> int:
        """Requests that wait for admission."""
        return len(self._inbox) + len(self._queue)

    def kv_tokens(self) -> float:
        """Tokens in the caches of all ranks."""
        return sum(rank.context + rank.promised for rank in self.ranks)

    def can_ever_hold(self, sequence: Sequence) -> bool:
        """Whether an empty server could run the request to its end, and take its prompt in one of its steps."""
        policy = self.policy
        whole = policy.chunked or sequence.prompt <= policy.token_budget
        return whole and sequence.prompt + sequence.outputs <= self._longest

    def _may_admit(self, sequence: Sequence) -> bool:
        if self.queued() > 1 and self.policy.order == "fcfs":
            return False  # others wait in front of it
        return any(self._fits(rank, sequence) for rank in self.ranks)

    def _fits(self, rank: Rank, sequence: Sequence) -> bool:
        if len(rank.running) >= self.policy.max_sequences:
            return False
        return self._used(rank) + self._need(sequence) <= self.capacity

    def _used(self, rank: Rank) -> float:
        pages = len(rank.running) * self._partial
        return rank.context + rank.promised + pages + self.policy.kv_reserve * rank.reserved

    def _need(self, sequence: Sequence) -> float:
        return sequence.prompt + self._partial + self.policy.kv_reserve * sequence.steps * self._gain + 1

    # ------------------------------------------------------------------ runs

    def _cut(self, now: float) -> None:
        """End the run at the first step boundary, from now on, at which the server looks for requests."""
        run = self._run
        done = run.steps_by(now)
        every = self.policy.poll_interval
        if every > 1:
            done += -(self._since_poll + done) % every
        if done < run.steps:
            self._start(run.shortened(done))

    def _start(self, run: StepRun) -> None:
        self._run = run
        timeout = self.env.timeout(max(0.0, run.end_s - self.env.now))
        timeout.callbacks.append(lambda _, run=run: self._end(run))

    def _begin(self) -> None:
        """Form the next step at a boundary."""
        if self._in_boundary:
            return
        self._look()
        chunks, extra = self._prefill_chunks()
        ranks = self.ranks
        if chunks:
            run = self._prefill_run(chunks, extra)
        elif self._total:
            self._make_room()
            if not self._total:
                self._run = None
                self._begin()
                return
            sequences, context = self._busiest()
            steps, growth = self._steps_alike(sequences, context)
            batch, draw = (sequences * self._width, self._total * self._width), self._draw()
            first = last = self._cost.decode_s(*batch, context, draw)
            if steps > 1:
                last = self._cost.decode_s(*batch, context + growth * (steps - 1), draw)
            run = StepRun(self.env.now, steps, first, last, extra, (), None, sequences, context)
        else:
            self._run = None
            self._recover_idle()
            return
        run.waiting, run.slowness = self._waiting, self._slowness
        run.kv_share = max([rank.context + rank.promised for rank in ranks]) / self.capacity
        self._late = self._late_s = 0.0
        self._start(run)

    def _recover_idle(self) -> None:
        """Nothing runs, yet something waits: it came while the server looked elsewhere, or is held."""
        if self._inbox or (self._queue and self._held):
            self._since_poll = self._held = 0
            self._begin()

    def _look(self) -> None:
        """Move what arrived into the queue, when the server looks for it."""
        if not self._inbox or (self._since_poll and self._total):
            return
        self._since_poll = 0
        if self.policy.order == "fcfs":
            self._queue.extend(self._inbox)
        else:
            for sequence in self._inbox:
                heapq.heappush(self._queue, (sequence.priority, sequence.index, sequence))
        self._inbox.clear()

    def _steps_alike(self, sequences: int, context: float) -> tuple[int, float]:
        """(decode steps until something must change, tokens by which the fullest rank grows in each).

        Their seconds lie on a straight line: steps end where the cost has a bend, or another rank becomes the fullest.
        """
        if self._exact:
            return 1, 0.0
        ends = self._ends
        while ends[0][2].finish != ends[0][0]:
            heapq.heappop(ends)
        steps = ends[0][0] - self._count
        for rank in self.ranks:
            if rank.sequences:
                free = self.capacity - rank.context - rank.promised - len(rank.running) * self._partial
                steps = min(steps, max(1, int(free / (rank.sequences * self._gain))))
        if self._inbox and self.policy.poll_interval > 1:
            steps = min(steps, self.policy.poll_interval - self._since_poll)
        if self._held:
            steps = min(steps, max(1, self.policy.hold_steps - self._held))
        if self._draws > 1:
            steps = min(steps, STEPS_PER_DRAW - self._count % STEPS_PER_DRAW)
        if steps <= 1:
            return 1, 0.0
        growing = max(rank.sequences for rank in self.ranks if rank.context == context)
        for rank in self.ranks:
            if rank.sequences > growing:
                apart = (context - rank.context) / (self._gain * (rank.sequences - growing))
                steps = min(steps, math.floor(apart) + 1)
        growth = self._gain * growing
        straight = (self._cost.bend(sequences * self._width, context) - context) / growth
        if straight < steps:
            steps = math.floor(straight) + 1
        return max(1, steps), growth

    def _draw(self) -> int:
        """The window of routing that the next step draws."""
        return self._count // STEPS_PER_DRAW % self._draws if self._draws > 1 else 0

    def _busiest(self) -> tuple[int, float]:
        ranks = self.ranks
        if len(ranks) == 1:
            return ranks[0].sequences, ranks[0].context
        return max(rank.sequences for rank in ranks), max(rank.context for rank in ranks)

    # ------------------------------------------------------------------ prompts

    def _prefill_chunks(self) -> tuple[list[tuple[Sequence, int]], float]:
        """(sequence, tokens) of the prompts' part of the next step, and seconds that swapping adds."""
        policy = self.policy
        if not self._partials and not self._queue:
            return [], self._take_extra()
        beside = self._width if policy.prefill == "mixed" else 0
        budget = {rank: policy.token_budget - beside * rank.sequences for rank in self.ranks}
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self._partials:
            take = min(sequence.left, budget[sequence.rank])
            if take > 0:
                chunks.append((sequence, take))
                budget[sequence.rank] -= take
        if self._queue and not self._hold():
            self._admit(budget, chunks)
        return chunks, self._take_extra()

    def _take_extra(self) -> float:
        extra, self._extra_s = self._extra_s, 0.0
        return extra

    def _hold(self) -> bool:
        """Whether prompts wait until every attention-DP rank can have one (TensorRT-LLM's balance)."""
        if not self.policy.hold_steps or len(self.ranks) == 1 or not self._total:
            self._held = 0
            return False
        if len(self._queue) >= len(self.ranks) or self._held >= self.policy.hold_steps:
            self._held = 0
            return False
        self._held = max(self._held, 1)
        return True

    def _admit(self, budget: dict[Rank, int], chunks: list[tuple[Sequence, int]]) -> None:
        policy, queue = self.policy, self._queue
        while queue:
            sequence = queue[0] if policy.order == "fcfs" else queue[0][2]
            rank = self._rank_for(sequence, budget)
            if rank is None:
                return
            hit = self._hit(rank, sequence) if policy.prefix_caching and sequence.prefix else 0
            left = sequence.left - hit
            room = budget[rank]
            if left > 0 and room <= 0:
                return
            if left > room and not policy.chunked and (chunks or room < policy.token_budget - rank.sequences):
                return
            if policy.order == "fcfs":
                queue.popleft()
            else:
                heapq.heappop(queue)
            self._place(sequence, rank, hit)
            if left <= 0:
                self._ready(sequence)
                continue
            take = min(left, room) if policy.chunked else left
            budget[rank] -= take
            chunks.append((sequence, take))
            self._partials.append(sequence)

    def _rank_for(self, sequence: Sequence, budget: dict[Rank, int]) -> Rank | None:
        """The attention-DP rank that takes a prompt, None when none has room now."""
        ranks = self.ranks
        if len(ranks) == 1:
            return ranks[0] if self._fits(ranks[0], sequence) else None
        fitting = [rank for rank in ranks if self._fits(rank, sequence)]
        if not fitting:
            return None
        fitting = [rank for rank in fitting if budget[rank] > 0] or fitting
        rule = self.policy.dp_placement
        if rule == "round_robin":
            turns = ranks[self._turn :] + ranks[: self._turn]
            return next(rank for rank in turns if rank in fitting)
        if rule == "least_loaded":
            return min(fitting, key=lambda rank: (len(rank.running), -budget[rank]))
        return min(fitting, key=lambda rank: (-rank.cache.lookup(sequence.prefix), self._used(rank)))

    def _hit(self, rank: Rank, sequence: Sequence) -> int:
        """Prompt tokens in the prefix cache; the last token is always computed."""
        rank.cache.shrink(self.capacity - self._used(rank))
        hit = min(rank.cache.lookup(sequence.prefix), sequence.left - 1)
        if hit > 0:
            self._on_cached(sequence, hit)
        return max(hit, 0)

    def _place(self, sequence: Sequence, rank: Rank, hit: int) -> None:
        sequence.rank = rank
        self._turn = (self.ranks.index(rank) + 1) % len(self.ranks)
        sequence.left -= hit
        rank.running[sequence] = None
        rank.promised += sequence.prompt
        rank.reserved += sequence.steps * self._gain
        self._extra_s += sequence.held * self._swap_s_per_token
        sequence.held = 0.0

    def _prefill_run(self, chunks: list[tuple[Sequence, int]], extra: float) -> StepRun:
        tokens = dict.fromkeys(self.ranks, 0)
        attended = dict.fromkeys(self.ranks, 0.0)
        for sequence, take in chunks:
            before = sequence.prompt - sequence.left
            tokens[sequence.rank] += take
            attended[sequence.rank] += take * (before + (take + 1) / 2)
        prefill = Prefill(max(tokens.values()), sum(tokens.values()), max(attended.values()), len(chunks))
        sequences, context = self._busiest() if self.policy.prefill == "mixed" else (0, 0.0)
        if sequences:
            self._make_room()
            sequences, context = self._busiest()
        total = self._total if sequences else 0
        seconds = self._cost.mixed_s(sequences * self._width, total * self._width, context, prefill)
        return StepRun(self.env.now, 1, seconds, seconds, extra, tuple(chunks), prefill, sequences, context)

    # ------------------------------------------------------------------ ends of runs

    def _end(self, run: StepRun) -> None:
        if run is not self._run:
            return  # it was cut
        self._in_boundary = True
        if self._journal is not None:
            self._log(run)
        if not run.prefill or run.sequences:
            self._advance(run.steps)
        for sequence, take in run.chunks:
            sequence.left -= take
            if sequence.left == 0 and sequence.rank is not None:
                self._ready(sequence)
        if run.chunks:
            self._partials = deque(sequence for sequence in self._partials if sequence.left > 0)
            self._since_poll = 0
        self._finish_due()
        self._in_boundary = False
        self._begin()

    def _advance(self, steps: int) -> None:
        self._count += steps
        self._since_poll = (self._since_poll + steps) % self.policy.poll_interval
        if self._held:
            self._held += steps
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
            self._waiting -= 1
        if self.policy.prefix_caching and sequence.prefix:
            rank.cache.insert(sequence.prefix, self.capacity - self._used(rank))
        sequence.joined = self._count
        sequence.finish = self._count + sequence.steps
        rank.sequences += 1
        rank.context += sequence.prompt + 1
        self._total += 1
        self._slowness += sequence.slowness
        heapq.heappush(self._ends, (sequence.finish, sequence.index, sequence))
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
        rank = sequence.rank
        done = self._count - sequence.joined
        rank.sequences -= 1
        rank.context -= sequence.prompt + 1 + done * self._gain
        rank.reserved -= (sequence.finish - self._count) * self._gain
        del rank.running[sequence]
        self._total -= 1
        self._slowness -= sequence.slowness
        sequence.finish = -1
        sequence.rank = None
        if not rank.sequences:
            rank.context = 0.0  # sums of fractions do not cancel exactly

    # ------------------------------------------------------------------ preemption

    def _make_room(self) -> None:
        """Take the cache from the latest requests until every rank can decode one more step."""
        for rank in self.ranks:
            while rank.sequences and self._over(rank):
                victim = next((s for s in reversed(rank.running) if s.finish >= 0), None)
                if victim is None or len(rank.running) == 1:
                    break
                self._preempt(victim)

    def _over(self, rank: Rank) -> bool:
        pages = len(rank.running) * self._partial
        return rank.context + rank.promised + pages + rank.sequences * self._gain > self.capacity

    def _preempt(self, sequence: Sequence) -> None:
        done = self._count - sequence.joined
        steps = sequence.finish - self._count
        tokens = sequence.prompt + 1 + math.ceil(done * self._gain)
        self._leave(sequence)
        sequence.prompt, sequence.steps = tokens, steps
        if self.policy.preemption == "swap":
            sequence.left, sequence.held = 0, tokens
            self._extra_s += tokens * self._swap_s_per_token
        else:
            sequence.left = tokens
        if self.policy.order == "fcfs":
            self._queue.appendleft(sequence)
        else:
            heapq.heappush(self._queue, (sequence.priority, sequence.index, sequence))
        self._on_preempt(sequence)

    # ------------------------------------------------------------------ failure

    def recheck(self) -> None:
        """Steps take another time from now on: end the run of equal steps at its next boundary."""
        if self._run is not None and self._run.steps > 1:
            self._cut(self.env.now)

    def evict(self) -> list[Sequence]:
        """Everything in the server leaves it now, oldest first, as when it dies: its caches are lost.

        Tokens of steps that have ended are kept; with the prompt they have to be computed anew elsewhere.
        """
        run, self._run = self._run, None  # its timeout finds another run, and does nothing
        self._in_boundary = True
        if run is not None and run.steps > 1 and not run.prefill:
            self._advance(max(run.steps_by(self.env.now) - 1, 0))
            self._finish_due()
        self._in_boundary = False
        leaving: list[Sequence] = []
        for rank in self.ranks:
            for sequence in list(rank.running):
                if sequence.finish >= 0:
                    done, steps = self._count - sequence.joined, sequence.finish - self._count
                    self._leave(sequence)
                    sequence.prompt += 1 + math.ceil(done * self._gain)
                    sequence.steps = steps
                else:
                    del rank.running[sequence]
                    sequence.rank = None
                sequence.left, sequence.held = sequence.prompt, 0.0
                leaving.append(sequence)
            rank.promised = rank.reserved = 0.0
            rank.cache.shrink(0)
        queued = self._queue if self.policy.order == "fcfs" else [entry[2] for entry in sorted(self._queue)]
        leaving += [*queued, *self._inbox]
        for waiting in (self._queue, self._inbox, self._partials, self._ends):
            waiting.clear()
        self.in_system = self._waiting = self._held = self._since_poll = 0
        self._late = self._late_s = self._extra_s = 0.0
        return leaving

    # ------------------------------------------------------------------ record

    def _log(self, run: StepRun) -> None:
        seconds = run.end_s - run.start_s
        came = self._late * run.end_s - self._late_s
        waiting = run.waiting + (came / seconds if seconds > 0 else 0.0)
        prefill = run.prefill
        parts = (prefill.tokens, prefill.total, prefill.attended, prefill.prompts) if prefill else (0, 0, 0.0, 0)
        middle = run.context + self._gain * run.sequences * (run.steps - 1) / 2
        total = self._total if run.sequences else 0
        mean = total / len(self.ranks)
        uneven = run.sequences / mean if mean else 1.0
        hottest = self._cost.hottest(run.sequences * self._width, total * self._width, self._draw()) if total else 1.0
        self._journal.add(
            (
                *(run.start_s, seconds, run.steps, run.sequences, total, middle, *parts),
                *(waiting, run.slowness, run.kv_share, uneven, hottest),
            )
        )
