"""Hit rates of looked-up routes on traces worked out by hand."""

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.routing.route_cache import measure_route_cache
from moesim.routing.trace import RouterTrace


def trace(routes, token_ids=None, offsets=None):
    """One expert a token and layer: routes [token][layer]."""
    ids = np.array(routes, dtype=np.uint8)[:, :, None]
    return RouterTrace(
        "toy", ids, np.array(offsets or [0, len(ids)]), experts=8, source="a test", synthetic=True,
        token_ids=None if token_ids is None else np.array(token_ids),
    )  # fmt: skip


EMPTY = trace(np.empty((0, 2)), [], [0])


def test_a_token_is_known_once_it_was_seen():
    # token 7 routes to 1, later to 2: known, but wrong; token 9 is new
    past = trace([[1, 3], [4, 4]], [7, 8])
    found = measure_route_cache(past, trace([[2, 3], [5, 5], [5, 5]], [7, 9, 9]), key="token", entries=10)
    assert found.hit_rate == (2 / 3, 2 / 3)
    assert found.agreement == 3 / 4


def test_the_least_recently_used_entry_is_forgotten():
    judged = trace([[1], [2], [1], [3], [2], [1]], [1, 2, 1, 3, 2, 1])
    rates = [measure_route_cache(EMPTY, judged, key="token", entries=n).mean_hit_rate for n in (1, 2, 3)]
    assert rates == [0, 1 / 6, 3 / 6]  # with two: 2 goes for 3, then 1 for 2


def test_prefixes_part_where_tokens_do_and_sequences_begin():
    judged = trace([[0], [0], [0], [0], [0], [0]], [5, 6, 7, 5, 6, 8], offsets=[0, 3, 6])
    whole = measure_route_cache(EMPTY, judged, key="prefix", entries=10)
    assert whole.mean_hit_rate == 2 / 6  # 5 and 5 6 of the second sequence
    pairs = measure_route_cache(EMPTY, judged, key="prefix", entries=10, window=1)
    assert pairs.mean_hit_rate == 2 / 6  # the tokens 5 and 6


def test_routes_of_the_first_layer_stand_for_tokens_that_nobody_recorded():
    judged = trace([[1, 4], [2, 5], [1, 4], [2, 6]], offsets=[0, 2, 4])
    found = measure_route_cache(EMPTY, judged, key="prefix", entries=10)
    assert found.hit_rate == (0, 2 / 4)
    assert found.agreement == 1 / 2


def test_the_layer_before_foretells_the_next():
    judged = trace([[1, 4], [1, 4], [2, 4], [1, 5]])
    found = measure_route_cache(EMPTY, judged, key="previous_layer", entries=10)
    assert found.hit_rate == (0, 2 / 4)
    assert found.agreement == 1 / 2


def test_keys_that_were_not_recorded_are_refused():
    with pytest.raises(InvalidInput, match="toy records no token ids"):
        measure_route_cache(EMPTY, trace([[1]]), key="token", entries=10)
