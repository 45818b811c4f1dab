"""Dependence in time and between layers against plain computations, and the figures of real traces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing import dependence
from moesim.routing.dependence import autocorrelation, next_layer_hit
from moesim.routing.health import health, moments
from moesim.routing.load import choices
from moesim.routing.trace import RouterTrace, encode_gates


def make(lengths=(150, 90, 130, 80), layers=3, k=2, experts=12, seed=0, varying=False, **fields) -> RouterTrace:
    """Choices that lean on a drifting favourite and on the layer before, so that there is something to measure."""
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)
    favourite = np.repeat(rng.random((tokens // 5 + 1, 1, experts)), 5, axis=0)[:tokens]
    scores = rng.random((tokens, layers, experts)) + favourite
    scores[:, 1:] += 0.5 * scores[:, :-1]
    ids = np.argsort(-scores, axis=-1)[..., :k].astype(np.uint8)
    if varying:
        fields["count"] = rng.integers(0, k + 1, (tokens, layers)).astype(np.uint8)
    return RouterTrace("toy", ids=ids, offsets=np.concatenate([[0], np.cumsum(lengths)]), experts=experts, **fields)


def plain_autocorrelation(trace, layer, lag):
    chosen = np.zeros((trace.tokens, trace.experts + 1))
    chosen[np.arange(trace.tokens)[:, None], choices(trace, slice(None))[:, layer]] = 1
    chosen = chosen[:, : trace.experts]
    sequence = np.searchsorted(trace.offsets, np.arange(trace.tokens), side="right")
    pairs = np.flatnonzero(sequence[:-lag] == sequence[lag:])
    values = [
        np.corrcoef(chosen[pairs, expert], chosen[pairs + lag, expert])[0, 1]
        for expert in range(trace.experts)
        if chosen[pairs, expert].std() * chosen[pairs + lag, expert].std() > 0
    ]
    return np.mean(values)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("segment", [2**14, 128, 70])
def test_autocorrelation_is_pearsons(monkeypatch, varying, segment):
    monkeypatch.setattr(dependence, "_SEGMENT", segment)
    trace = make(varying=varying)
    lags = (1, 4, 16, 64)
    mean, _ = autocorrelation(trace, lags)
    wanted = [[plain_autocorrelation(trace, layer, lag) for lag in lags] for layer in range(3)]
    np.testing.assert_allclose(mean, wanted, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(1, 3))
def test_a_shift_moves_every_bit(lag, rows):
    flags = np.random.default_rng(lag).random((rows, 256)) < 0.5
    packed = np.packbits(flags, axis=1, bitorder="little").view(np.uint64)
    moved = np.unpackbits(dependence._shift(packed, lag).view(np.uint8), axis=1, bitorder="little").astype(bool)
    np.testing.assert_array_equal(moved[:, : 256 - lag], flags[:, lag:])
    assert not moved[:, 256 - lag :].any()


def test_the_next_layer_of_a_fixed_map_is_foretold():
    first = np.tile(np.argsort(np.random.default_rng(0).random((400, 8)), axis=1)[:, None, :2], (1, 2, 1))
    first[:, 1] = (first[:, 0] + 3) % 8
    trace = RouterTrace("t", first.astype(np.uint8), np.arange(0, 401, 50), experts=8)
    hit, popularity = next_layer_hit(trace)
    assert hit == pytest.approx([1], abs=0.01)
    assert popularity == pytest.approx([0.25], abs=0.05)


def test_independent_layers_are_foretold_by_popularity_alone():
    ids = np.argsort(np.random.default_rng(0).random((20_000, 2, 8)), axis=-1)[..., :2].astype(np.uint8)
    hit, popularity = next_layer_hit(RouterTrace("t", ids, np.arange(0, 20_001, 100), experts=8))
    assert hit == pytest.approx(popularity, abs=0.02)


def test_long_traces_are_sampled_by_whole_sequences():
    trace = make(lengths=(100,) * 1000, layers=2)
    halves = dependence._halves(trace)
    assert 0.9 * 2**15 <= sum(map(len, halves)) <= 2**15
    assert not set(halves[0] // 100) & set(halves[1] // 100)
    one = dependence._halves(make(lengths=(101,)))
    assert [len(half) for half in one] == [50, 51]


def test_health_of_a_toy():
    ids = np.array([[[0, 1]], [[0, 2]], [[0, 1]], [[0, 3]]], dtype=np.uint8)
    gates = encode_gates(np.array([[[0.75, 0.25]]] * 4))
    trace = RouterTrace("t", ids, np.array([0, 2, 4]), experts=8, gates=gates, labels=("law", "code"))
    seen = health(trace)
    assert seen.load.tolist() == [[4, 2, 1, 1, 0, 0, 0, 0]]
    assert {name: load.tolist() for name, load in seen.label_load.items()} == {
        "law": [[2, 1, 1, 0, 0, 0, 0, 0]],
        "code": [[2, 1, 0, 1, 0, 0, 0, 0]],
    }
    assert seen.top_share.tolist() == [1.0]
    assert seen.active.tolist() == [0.5]
    assert seen.moments.max_over_mean == 4
    assert seen.moments.utilisation == 0.25
    assert seen.drops[1.0] == pytest.approx(4 / 8)
    assert seen.confidence == pytest.approx(0.75, abs=0.005)
    assert seen.drift is None  # too short to tell
    assert seen.moments.next_layer_hit is None  # one layer
    assert list(seen.moments.autocorrelation) == [1]  # sequences of two tokens have no longer lags


def test_drift_and_labels_tell_parts_apart():
    rng = np.random.default_rng(0)
    hot, cold = (
        np.argsort(rng.random((2000, 1, 8)), axis=-1)[..., :2],
        np.argsort(rng.random((2000, 1, 8)))[..., :2] + 8,
    )
    steady = RouterTrace(
        "t", np.tile(hot.astype(np.uint8), (2, 1, 1)), np.array([0, 2000, 4000]), 16, labels=("a", "b")
    )
    moved = RouterTrace(
        "t", np.concatenate([hot, cold]).astype(np.uint8), np.array([0, 2000, 4000]), 16, labels=("a", "b")
    )
    assert health(steady).drift > 0.95
    assert health(moved).drift < -0.9
    assert health(moved).label_correlation < -0.9


def test_moments_agree_with_health():
    trace = make(groups=4)
    assert moments(trace) == health(trace).moments


@pytest.mark.parametrize(
    ("task", "max_over_mean", "gini", "ep8", "lags", "hit", "popularity"),
    [
        ("intent", 3.81, 0.409, 1.44, (0.128, 0.030, -0.005, -0.003), 0.618, 0.268),
        ("law", 3.52, 0.304, 1.39, (0.184, 0.065, 0.030, 0.002), 0.528, 0.224),
        ("summary", 4.28, 0.353, 1.40, (0.168, 0.048, 0.028, 0.016), 0.516, 0.255),
        ("translation", 5.62, 0.535, 1.69, (0.060, 0.035, 0.098, -0.010), 0.582, 0.378),
    ],
)
def test_deepseek_v2_lite_traces(deepseek_v2_lite, task, max_over_mean, gini, ep8, lags, hit, popularity):
    """Values of an independent dense computation; the weighted autocorrelation of ``law`` is the published one."""
    real = moments(deepseek_v2_lite(task))
    assert real.max_over_mean == pytest.approx(max_over_mean, rel=0.01)
    assert real.gini == pytest.approx(gini, abs=0.002)
    assert real.hottest_rank[8] == pytest.approx(ep8, abs=0.01)
    assert tuple(real.autocorrelation_weighted.values()) == pytest.approx(lags, abs=0.001)
    assert real.next_layer_hit == pytest.approx(hit, abs=0.01)
    assert real.next_layer_popularity == pytest.approx(popularity, abs=0.01)
