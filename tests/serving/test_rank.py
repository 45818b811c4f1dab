"""The KV cache of one rank, token by token."""

from dataclasses import replace

from moesim.serving.batch import Sequence
from moesim.serving.policy import Policy
from moesim.serving.rank import Rank, partial_page

PLAIN = Policy(prefix_caching=False, block_tokens=1)


def test_a_request_fits_with_its_prompt_and_its_first_token():
    assert Rank(PLAIN, 101, 16).fits(Sequence(0, 100, 5, 4))
    assert not Rank(PLAIN, 100, 16).fits(Sequence(0, 100, 5, 4))


def test_half_a_page_stays_empty_and_a_share_of_the_outputs_is_kept_free():
    policy = replace(PLAIN, block_tokens=17, kv_reserve=0.5)
    assert partial_page(policy) == 8
    sequence = Sequence(0, 100, 11, 10)
    assert Rank(policy, 100 + 8 + 0.5 * 10 + 1, 16).fits(sequence)
    assert not Rank(policy, 100 + 8 + 0.5 * 10, 16).fits(sequence)


def test_no_more_requests_than_the_limit():
    rank = Rank(replace(PLAIN, max_sequences=1), 1e9, 16)
    rank.running[Sequence(0, 1, 2, 1)] = None
    assert not rank.fits(Sequence(1, 1, 2, 1))


def test_steps_until_the_cache_is_full():
    rank = Rank(replace(PLAIN, draft_tokens=1, acceptance=1.0), 100, 16)  # two tokens a step
    rank.sequences, rank.context, rank.promised = 3, 60.0, 20.0
    assert rank.steps_left() == (100 - 80) // 6
    assert rank.share() == 0.8
    rank.context = 78.0
    assert rank.steps_left() < 1
