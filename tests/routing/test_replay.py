"""Replay: windows hold the right tokens, in the right order, of the right phase; reuse is counted."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.routing.replay import replay, select_sequences, split
from moesim.routing.trace import RouterTrace


def make(lengths=(30, 20, 50, 25), layers=3, k=2, experts=16, **fields) -> RouterTrace:
    tokens = sum(lengths)
    ids = np.argsort(np.random.default_rng(3).random((tokens, layers, experts)), axis=-1)[..., :k].astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return RouterTrace("toy", ids=ids, offsets=offsets, experts=experts, **fields)


def routes_of(trace, seed=0, **options):
    usual = {"moe_layers": 3, "experts": 16, "top_k": 2, "ranks": 4, "tokens_per_rank": 5, "phase": "decode"}
    return replay(trace, rng=np.random.default_rng(seed), **(usual | options))


def sequence_of(trace, tokens):
    return np.searchsorted(trace.offsets, tokens, side="right") - 1


@settings(max_examples=60, deadline=None)
@given(
    phase=st.sampled_from(["prefill", "decode"]),
    moe_layers=st.integers(1, 10),
    tokens=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    step=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_routes_are_the_rows_of_the_tokens_drawn(phase, moe_layers, tokens, step, seed):
    trace = make(count=np.full((125, 3), 2, dtype=np.uint8))
    routes = routes_of(
        trace, seed, phase=phase, moe_layers=moe_layers, ranks=len(tokens), tokens_per_rank=np.array(tokens), step=step
    )
    assert routes.offsets.tolist() == [0, *np.cumsum(tokens)]
    assert routes.ids.shape == (moe_layers, sum(tokens), 2)
    for layer in range(moe_layers):
        block, inside = divmod(layer, trace.layers)
        np.testing.assert_array_equal(routes.ids[layer], trace.ids[routes.tokens[block], inside])
        np.testing.assert_array_equal(routes.count[layer], trace.count[routes.tokens[block], inside])


def test_blocks_draw_different_windows():
    drawn = routes_of(make(), moe_layers=7).tokens
    assert drawn.shape == (3, 20)
    assert len({tuple(sorted(row)) for row in drawn}) == 3


def test_equal_seeds_draw_equal_windows():
    first, second, other = (routes_of(make(), seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert not np.array_equal(first.tokens, other.tokens)


def test_decode_advances_every_request_by_one_token():
    trace = make(lengths=(1000,))  # one sequence: nothing to jump to but its own start
    first, second = (routes_of(trace, step=step).tokens[0] for step in (0, 1))
    np.testing.assert_array_equal((first + 1) % 1000, second)


def test_a_decode_step_takes_different_tokens_spread_over_the_trace():
    trace = make(lengths=(50,) * 20)
    tokens = routes_of(trace, ranks=10, tokens_per_rank=10).tokens[0]
    assert len(set(tokens)) == 100
    assert set(sequence_of(trace, tokens)) == set(range(20))
    per_rank = sequence_of(trace, tokens).reshape(10, 10)
    assert min(len(set(rank)) for rank in per_rank) >= 5  # requests of a rank differ


def test_ranks_have_their_own_sequences_when_there_are_enough():
    trace = make(lengths=(10,) * 200)
    ranks = sequence_of(trace, routes_of(trace, ranks=4, tokens_per_rank=25).tokens[0]).reshape(4, 25)
    assert len(set(ranks.ravel())) == 100


def test_prefill_reads_contiguous_runs_and_reads_on():
    trace = make(lengths=(40,) * 10)
    steps = [routes_of(trace, phase="prefill", tokens_per_rank=20, step=step).tokens[0] for step in range(5)]
    jumps = np.diff(np.concatenate(steps))
    assert np.count_nonzero(jumps != 1) <= 9  # only from the end of one sequence to the start of another
    assert sorted(np.concatenate(steps)) == list(range(400))


@pytest.mark.parametrize(
    ("phase", "step", "reused"),
    [("prefill", 0, 0), ("prefill", 4, 0), ("prefill", 5, 0), ("prefill", 6, 15), ("prefill", 7, 20),
     ("decode", 0, 0), ("decode", 5, 0), ("decode", 7, 20)],
)  # fmt: skip
def test_wrap_around_is_counted(phase, step, reused):
    assert routes_of(make(), phase=phase, step=step).reused == reused  # 20 of 125 tokens a step


def test_a_batch_beyond_the_trace_counts_its_repeats():
    routes = routes_of(make(), ranks=1, tokens_per_rank=200)
    assert len(set(routes.tokens[0])) == 125
    assert routes.reused == 75


def test_phases_come_from_their_tokens():
    phase = np.concatenate([np.repeat([0, 1], pair) for pair in ((20, 10), (20, 0), (0, 50), (5, 20))])
    trace = make(phase=phase.astype(np.uint8))
    for name, value in (("prefill", 0), ("decode", 1)):
        for step in range(6):
            assert set(phase[routes_of(trace, phase=name, step=step).tokens].ravel()) == {value}
    with pytest.raises(InvalidInput, match="has no decode tokens"):
        routes_of(make(phase=np.zeros(125, dtype=np.uint8)))
    with pytest.raises(InvalidInput, match="write prefill or decode"):
        routes_of(trace, phase="training")


@pytest.mark.parametrize("geometry", [{"experts": 32}, {"top_k": 4}])
def test_another_geometry_says_what_to_do(geometry):
    with pytest.raises(InvalidInput, match=r"chooses 2 of 16 experts.*moesim capture --model"):
        routes_of(make(), **geometry)


def test_rows_wider_than_top_k_are_those_of_routers_with_varying_k():
    trace = make(k=5, count=np.full((125, 3), 2, dtype=np.uint8), metadata={"top_k": 2})
    assert routes_of(trace).ids.shape == (3, 20, 5)
    with pytest.raises(InvalidInput, match="chooses 5 of 16"):
        routes_of(make(k=5, metadata={"top_k": 2}))


def test_split_shares_out_whole_sequences_of_every_domain():
    trace = make(lengths=(3, 4, 5, 6), labels=("a", "a", "b", "b"), phase=np.zeros(18, dtype=np.uint8))
    learn, judge = split(trace, 0.5)
    assert (learn.labels, judge.labels) == (("a", "b"), ("a", "b"))
    np.testing.assert_array_equal(learn.ids, np.concatenate([trace.ids[3:7], trace.ids[12:18]]))
    np.testing.assert_array_equal(judge.ids, np.concatenate([trace.ids[:3], trace.ids[7:12]]))
    assert learn.offsets.tolist() == [0, 4, 10]
    assert learn.tokens + judge.tokens == trace.tokens
    for share in (0, 1, 0.01):
        with pytest.raises(InvalidInput, match="leaves one part"):
            split(trace, share)


def test_selected_sequences_keep_their_order():
    trace = make(lengths=(3, 4, 5), gates=np.zeros((12, 3, 2), np.uint8))
    chosen = select_sequences(trace, np.array([2, 0]))
    np.testing.assert_array_equal(chosen.ids, np.concatenate([trace.ids[7:12], trace.ids[:3]]))
    assert chosen.gates.shape == (8, 3, 2)
    assert dataclasses.replace(chosen, experts=32).experts == 32
