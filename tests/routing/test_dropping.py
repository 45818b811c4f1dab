from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.routing.dropping import capacity, drop_over_capacity
from moesim.routing.replay import Routes


def routes(ids, offsets=None, count=None):
    ids = np.asarray(ids)
    offsets = np.array([0, ids.shape[1]]) if offsets is None else np.array(offsets)
    return Routes(ids, count, offsets, np.arange(ids.shape[1])[None], 0, False)


def kept_of(result):
    return [
        [choice[:n].tolist() for choice, n in zip(*layer, strict=True)]
        for layer in zip(result.ids, result.count, strict=True)
    ]


def test_capacity_is_rounded_up():
    assert capacity(8, 2, 4, 1.0) == 4
    assert capacity(10, 1, 1, 1.1) == 11
    assert capacity(3, 1, 2, 1.0) == 2
    assert capacity(1, 1, 256, 1.0) == 1


def test_first_choices_come_before_second_ones_and_earlier_tokens_before_later():
    # capacity 2 of each of 4 experts; expert 0 is the first choice of tokens 0, 1, 3 and the second of token 2
    found, share = drop_over_capacity(routes([[[0, 1], [0, 2], [3, 0], [0, 1]]]), 4, factor=1.0, group="batch")
    assert kept_of(found) == [[[0, 1], [0, 2], [3], [1]]]
    assert share.tolist() == [0.25]


def test_each_rank_has_its_own_capacity():
    ids = [[[0], [0], [0], [0]]]
    whole, _ = drop_over_capacity(routes(ids), 2, factor=1.0, group="rank")
    apart, share = drop_over_capacity(routes(ids, [0, 1, 4]), 2, factor=1.0, group="rank")
    assert whole.count.tolist() == [[1, 1, 0, 0]]
    assert apart.count.tolist() == [[1, 1, 1, 0]]  # one of one token, two of three
    assert share.tolist() == [0.25]


def test_what_was_no_choice_takes_no_room():
    found, share = drop_over_capacity(
        routes([[[0, 1], [0, 1]]], count=np.array([[1, 2]])), 2, factor=0.5, group="batch"
    )
    assert kept_of(found) == [[[0], [1]]]
    assert share[0] == pytest.approx(1 / 3)


@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 3), st.floats(0.1, 3), st.sampled_from(["rank", "batch"])
)
def test_no_expert_takes_more_and_room_for_all_drops_none(seed, tokens, top_k, factor, group):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((2, tokens, 5)), axis=2)[:, :, :top_k]
    cut = int(rng.integers(0, tokens + 1))
    drawn = routes(ids, [0, cut, tokens])
    found, share = drop_over_capacity(drawn, 5, factor=factor, group=group)
    edges = [0, cut, tokens] if group == "rank" else [0, tokens]
    for layer in range(2):
        for begin, end in pairwise(edges):
            chosen = [e for t in range(begin, end) for e in found.ids[layer, t, : found.count[layer, t]]]
            load = np.bincount(chosen, minlength=5)
            assert load.max(initial=0) <= capacity(end - begin, top_k, 5, factor)
            wanted = np.bincount(ids[layer, begin:end].ravel(), minlength=5)
            # experts drop exactly what they have no room for
            assert (load == np.minimum(wanted, capacity(end - begin, top_k, 5, factor))).all()
    assert share.mean() == pytest.approx(1 - found.count.sum() / ids.size)
    everything, nothing = drop_over_capacity(drawn, 5, factor=5.0, group=group)
    assert (everything.ids == ids).all()
    assert not nothing.any()
