"""Admission by hand, without a clock: which prompts of a queue the next step computes."""

from dataclasses import replace

import pytest

from moesim.serving.admission import Admission
from moesim.serving.batch import Sequence
from moesim.serving.policy import Policy
from moesim.serving.rank import Rank
from moesim.serving.waiting import Waiting

PLAIN = Policy(prefix_caching=False, block_tokens=1, token_budget=150)


class Server:
    """The parts of a server that admission sees, with prompts of 100 tokens in its queue."""

    def __init__(self, policy, prompts=3, *, ranks=1, capacity=1000, prefix=()):
        self.ranks = [Rank(policy, capacity, 16) for _ in range(ranks)]
        self.waiting, self.ready, self.cached = Waiting(policy.order), [], []
        self.waiting.inbox.extend(Sequence(index, 100, 5, 4, prefix=prefix) for index in range(prompts))
        self.waiting.look()
        self.admission = Admission(
            policy,
            self.ranks,
            self.waiting,
            ready=lambda sequence: self.ready.append(sequence.index),
            on_cached=lambda sequence, tokens: self.cached.append((sequence.index, tokens)),
            swap_s_per_token=0.01,
        )

    def step(self, decoding=0):
        """[(request, tokens, rank)] of a step, which then ends."""
        chunks = self.admission.chunks(decoding)
        for sequence, take in chunks:
            sequence.left -= take
        self.admission.computed()
        return [(sequence.index, take, self.ranks.index(sequence.rank)) for sequence, take in chunks]


def test_a_prompt_that_the_budget_cut_goes_on_before_the_queue():
    server = Server(PLAIN)
    assert server.step() == [(0, 100, 0), (1, 50, 0)]
    assert [sequence.index for sequence in server.admission.partials] == [1]
    assert server.step() == [(1, 50, 0), (2, 100, 0)]
    assert server.step() == server.admission.partials == []


@pytest.mark.parametrize(("prefill", "drafts", "second"), [("mixed", 0, 40), ("mixed", 1, 30), ("first", 1, 50)])
def test_decoding_takes_its_tokens_and_drafts_from_the_budget_of_mixed_steps(prefill, drafts, second):
    server = Server(replace(PLAIN, prefill=prefill, draft_tokens=drafts))
    server.ranks[0].sequences = 10
    assert server.step(decoding=10) == [(0, 100, 0), (1, second, 0)]


def test_prompts_that_are_never_cut_wait_for_a_step_of_their_own():
    server = Server(replace(PLAIN, chunked=False))
    assert [server.step() for _ in range(3)] == [[(index, 100, 0)] for index in range(3)]


def test_the_queue_stops_at_the_first_request_without_room():
    server = Server(PLAIN, capacity=150)
    assert server.step() == [(0, 100, 0)]
    assert len(server.waiting) == 2


def test_a_prompt_waits_until_every_rank_can_have_one_but_not_too_long():
    policy = replace(PLAIN, hold_steps=3)
    server = Server(policy, 1, ranks=2)
    assert (server.step(decoding=1), server.admission.held_steps) == ([], 1)
    server.admission.held_steps = 3  # the server counts the steps
    assert (server.step(decoding=1), server.admission.held_steps) == ([(0, 100, 0)], 0)
    assert Server(policy, 2, ranks=2).step(decoding=1) == [(0, 100, 0), (1, 100, 1)]
    assert Server(policy, 1, ranks=2).step(decoding=0) == [(0, 100, 0)]  # nothing would run meanwhile


def test_ranks_are_chosen_in_turn_or_by_their_requests_or_by_their_cache():
    prefix = (1, 2, 3)
    for rule, chosen in (("round_robin", [0, 1, 0]), ("least_loaded", [1, 0, 1]), ("kv_aware", [1, 1])):
        server = Server(replace(PLAIN, dp_placement=rule, prefix_caching=True), len(chosen), ranks=2, prefix=prefix)
        if rule == "least_loaded":
            server.ranks[0].running[Sequence(9, 1, 1, 0)] = None
        if rule == "kv_aware":
            server.ranks[1].cache.insert(prefix, 1000)
        found = server.step()
        assert [rank for _, _, rank in found] == chosen
        assert server.cached == ([(0, 48), (1, 48)] if rule == "kv_aware" else [])


def test_a_cache_on_the_host_is_moved_back_and_needs_no_prefill():
    server = Server(PLAIN, 1)
    moved = server.waiting.first()
    moved.left, moved.held = 0, 50.0
    assert server.step() == []
    assert (server.ready, server.admission.swapped_s, moved.held) == ([0], 0.5, 0.0)
