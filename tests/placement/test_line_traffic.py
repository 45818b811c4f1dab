"""Windows of a cyclic line, counted by running sums, equal windows counted token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement.line_traffic import line_traffic
from moesim.placement.policies import POLICIES
from moesim.placement.traffic import layer_traffic


@settings(max_examples=40, deadline=None)
@given(
    level=st.sampled_from(["expert", "rank", "node"]),
    tokens=st.integers(1, 60),
    length=st.integers(1, 150),
    some=st.booleans(),
    seed=st.integers(0, 9),
)
def test_equals_counting_every_token(level, tokens, length, some, seed):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, 12)), axis=1)[:, :3]
    count = rng.integers(0, 4, tokens) if some else None
    placement = POLICIES["contiguous"](np.ones((1, 12)), 6, None, slots_per_rank=2)
    node = np.array([0, 0, 0, 1, 1, 2])
    begin = (np.arange(4)[:, None] * 6 + np.arange(6)) * length
    found = line_traffic(placement, 0, ids, begin, length, level=level, node=node, count=count)
    for window, places in enumerate(begin):
        drawn = (places[:, None] + np.arange(length)).ravel() % tokens
        source = np.repeat(np.arange(6), length)
        expected = layer_traffic(
            placement, 0, ids[drawn], source, level=level, node=node, count=None if count is None else count[drawn]
        )
        for name in ("tokens", "entering", "copies"):
            assert np.array_equal(getattr(found[window], name), getattr(expected, name)), name


def test_an_unknown_level_is_named():
    placement = POLICIES["contiguous"](np.ones((1, 4)), 2, None, slots_per_rank=2)
    with pytest.raises(ValueError, match="expert, rank, node"):
        line_traffic(placement, 0, np.zeros((1, 1), int), np.zeros((1, 2), int), 1, level="server", node=np.zeros(2))
