"""Which prompts the next step computes: what was cut before goes on, then the queue as budget and memory allow."""

from __future__ import annotations

from collections.abc import Callable

from moesim.serving.batch import Chunk, Sequence
from moesim.serving.policy import Policy
from moesim.serving.rank import Rank
from moesim.serving.waiting import Waiting


class Admission:
    """Admits requests to the ranks of a server and cuts their prompts to the token budget.

    ready: called when a request needs no prefill (its cache was moved here). on_cached: (request, tokens that the
    prefix cache held). swap_s_per_token: seconds to move a token's cache back from the host.
    held_steps: decode steps for which prompts have waited for one another, 0 while none does.
    """

    def __init__(
        self,
        policy: Policy,
        ranks: list[Rank],
        waiting: Waiting,
        *,
        ready: Callable[[Sequence], None],
        on_cached: Callable[[Sequence, int], None],
        swap_s_per_token: float,
    ):
        self._policy, self._ranks, self._waiting = policy, ranks, waiting
        self._ready, self._on_cached, self._swap_s_per_token = ready, on_cached, swap_s_per_token
        self._beside = 1 + policy.draft_tokens if policy.prefill == "mixed" else 0
        self._gain = policy.tokens_per_step
        self._turn = 0
        self.partials: list[Sequence] = []  # prompts that the budget cut
        self.held_steps = 0
        self.swapped_s = 0.0  # of requests admitted since it was last read

    def chunks(self, decoding: int) -> list[Chunk]:
        """The prompts' part of the next step; decoding: sequences that decode on all ranks."""
        waiting = self._waiting.queue
        if not waiting and not self.partials:
            return []
        budget = {rank: self._policy.token_budget - self._beside * rank.sequences for rank in self._ranks}
        chunks: list[Chunk] = []
        for sequence in self.partials:
            take = min(sequence.left, budget[sequence.rank])
            if take > 0:
                chunks.append((sequence, take))
                budget[sequence.rank] -= take
        if waiting and not self._hold(decoding):
            self._admit(budget, chunks)
        return chunks

    def computed(self) -> None:
        """A step with prompts has ended: forget those that are whole."""
        if self.partials:
            self.partials = [sequence for sequence in self.partials if sequence.left > 0]

    def _hold(self, decoding: int) -> bool:
        """Whether prompts wait until every attention-DP rank can have one (TensorRT-LLM's balance)."""
        longest, ranks = self._policy.hold_steps, len(self._ranks)
        if not longest or ranks == 1 or not decoding or len(self._waiting.queue) >= ranks or self.held_steps >= longest:
            self.held_steps = 0
            return False
        self.held_steps = max(self.held_steps, 1)
        return True

    def _admit(self, budget: dict[Rank, int], chunks: list[Chunk]) -> None:
        policy, waiting = self._policy, self._waiting
        while waiting.queue:
            sequence = waiting.first()
            rank = self._rank_for(sequence, budget)
            if rank is None:
                return
            hit = self._hit(rank, sequence) if policy.prefix_caching and sequence.prefix else 0
            left, room = sequence.left - hit, budget[rank]
            if left > 0 and room <= 0:
                return
            if left > room and not policy.chunked and (chunks or room < policy.token_budget - rank.sequences):
                return
            waiting.pop()
            self._place(sequence, rank, hit)
            if left <= 0:
                self._ready(sequence)
                continue
            take = min(left, room) if policy.chunked else left
            budget[rank] -= take
            chunks.append((sequence, take))
            if take < left:
                self.partials.append(sequence)

    def _rank_for(self, sequence: Sequence, budget: dict[Rank, int]) -> Rank | None:
        """The attention-DP rank that takes a prompt, None when none has room now."""
        ranks = self._ranks
        if len(ranks) == 1:
            return ranks[0] if ranks[0].fits(sequence) else None
        fitting = [rank for rank in ranks if rank.fits(sequence)]
        if not fitting:
            return None
        fitting = [rank for rank in fitting if budget[rank] > 0] or fitting
        rule = self._policy.dp_placement
        if rule == "round_robin":
            turns = ranks[self._turn :] + ranks[: self._turn]
            return next(rank for rank in turns if rank in fitting)
        if rule == "least_loaded":
            return min(fitting, key=lambda rank: (len(rank.running), -budget[rank]))
        return min(fitting, key=lambda rank: (-rank.cache.lookup(sequence.prefix), rank.used()))

    def _hit(self, rank: Rank, sequence: Sequence) -> int:
        """Prompt tokens in the prefix cache; the last token is always computed."""
        rank.cache.shrink(rank.capacity - rank.used())
        hit = min(rank.cache.lookup(sequence.prefix), sequence.left - 1)
        if hit > 0:
            self._on_cached(sequence, hit)
        return max(hit, 0)

    def _place(self, sequence: Sequence, rank: Rank, hit: int) -> None:
        sequence.rank = rank
        if len(self._ranks) > 1:
            self._turn = (self._ranks.index(rank) + 1) % len(self._ranks)
        sequence.left -= hit
        rank.running[sequence] = None
        rank.promised += sequence.prompt
        rank.reserved += sequence.steps * self._gain
        if sequence.held:
            self.swapped_s += sequence.held * self._swap_s_per_token
            sequence.held = 0.0
