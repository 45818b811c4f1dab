"""What is not a real choice goes, and is counted."""

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.routing.cleaning import RawRoutes, clean
from moesim.routing.trace import decode_gates


def some_ids(tokens=40, layers=3, k=2, experts=8, seed=0):
    return np.argsort(np.random.default_rng(seed).random((tokens, layers, experts)), axis=-1)[..., :k]


def cleaned(ids, lengths=None, **fields):
    raw_fields = {name: fields.pop(name) for name in list(fields) if name in RawRoutes.__dataclass_fields__}
    return clean(RawRoutes(ids, np.array(lengths or [len(ids)]), **raw_fields), "log", "a test", **fields)


def test_real_rows_pass_unchanged():
    ids = some_ids()
    trace = cleaned(ids, [15, 25], labels=("a", "b"), positions=np.arange(40), experts=16)
    np.testing.assert_array_equal(trace.ids, ids)
    assert trace.ids.dtype == np.uint8
    assert trace.offsets.tolist() == [0, 15, 40]
    assert trace.labels == ("a", "b")
    assert trace.experts == 16
    assert trace.count is None
    assert trace.metadata["dropped"] == {"layers_without_router": 0, "padding": 0, "warm_up": 0}
    assert not trace.synthetic


@pytest.mark.parametrize("filler", [-1, 0, 255])
def test_padding_goes_with_its_sequences(filler):
    ids = some_ids()
    ids[10:20] = filler
    trace = cleaned(ids, [5, 10, 5, 20], labels=tuple("abcd"), experts=8)
    np.testing.assert_array_equal(trace.ids, np.concatenate([ids[:10], ids[20:]]))
    assert trace.offsets.tolist() == [0, 5, 10, 30]
    assert trace.labels == ("a", "b", "d")
    assert trace.metadata["dropped"]["padding"] == 10


@pytest.mark.parametrize("filler", [-1, 0])
def test_layers_without_routers_go(filler):
    dense = np.full((40, 1, 2), filler)
    trace = cleaned(np.concatenate([dense, some_ids(), dense], axis=1))
    assert trace.layers == 3
    assert trace.metadata["moe_layers"] == [1, 2, 3]
    assert trace.metadata["dropped"]["layers_without_router"] == 2


def test_runs_of_one_row_are_warm_up():
    ids = some_ids()
    ids[5:17] = ids[5]
    ids[30:34] = ids[30]  # four alike may be text
    trace = cleaned(ids)
    assert trace.metadata["dropped"]["warm_up"] == 12
    assert trace.tokens == 28
    assert cleaned(ids, keep_dummies=True).tokens == 40


def test_rows_alike_with_other_weights_are_real():
    ids = np.repeat(some_ids(1), 20, axis=0)
    weights = np.random.default_rng(0).random((20, 3, 2)) + 0.1
    assert cleaned(ids, weights=weights).tokens == 20
    with pytest.raises(InvalidInput, match=r"no routed token is left \(20 warm_up\)"):
        cleaned(ids, weights=np.full((20, 3, 2), 0.3))


def test_scattered_rows_with_equal_gates_are_warm_up():
    ids, weights = some_ids(100), np.random.default_rng(0).random((100, 3, 2)) + 0.1
    ids[::5], weights[::5] = ids[0], 0.125
    trace = cleaned(ids, weights=weights)
    assert trace.metadata["dropped"]["warm_up"] == 20
    np.testing.assert_array_equal(trace.ids, ids[np.arange(100) % 5 > 0])


def test_rows_with_fewer_choices_get_counts():
    ids, weights = some_ids(), np.full((40, 3, 2), 0.5)
    weights[:, :, 1] = np.random.default_rng(0).random((40, 3))
    ids[3, 1] = (-1, 6)
    ids[4, 2] = -1
    trace = cleaned(ids, weights=weights)
    assert trace.count[3].tolist() == [2, 1, 2]
    assert trace.count[4].tolist() == [2, 2, 0]
    assert trace.ids[3, 1, 0] == 6
    assert decode_gates(trace.gates[3, 1]).tolist() == [1.0, 0.0]


def test_gates_are_shares_of_their_row():
    weights = np.random.default_rng(0).random((40, 3, 2)) * 2.5
    gates = decode_gates(cleaned(some_ids(), weights=weights).gates)
    np.testing.assert_allclose(gates, weights / weights.sum(axis=2, keepdims=True), atol=0.004)


def test_unknown_numbers_of_experts_are_inferred_and_said_so():
    trace = cleaned(some_ids(experts=8))
    assert (trace.experts, trace.metadata["experts_inferred"]) == (8, "highest id + 1")
    with pytest.raises(InvalidInput, match="below the 6 experts"):
        cleaned(some_ids(experts=8), experts=6)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((0, 3, 2), int), "holds no choices"),
        (np.zeros((4, 3), int), "holds no choices"),
        (np.ones((4, 3, 2)), "holds no choices: ids are float64"),
        (np.full((4, 3, 2), -1), "no routed token is left"),
    ],
)
def test_logs_without_choices_are_refused(ids, message):
    with pytest.raises(InvalidInput, match=message):
        cleaned(ids)


def test_rows_that_repeat_an_expert_are_refused():
    ids = some_ids()
    ids[7, 1] = 5
    with pytest.raises(InvalidInput, match=r"repeated in a row: \[5, 5\] at token 7, layer 1"):
        cleaned(ids)
