"""Load statistics on tables whose answer is known, and on published counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moesim.errors import InvalidInput
from moesim.routing import load as loads
from moesim.routing.trace import RouterTrace, write_trace

positive_loads = hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(2, 16)), elements=st.integers(1, 1000))


def test_balanced_and_collapsed_loads():
    load = np.array([[5, 5, 5, 5], [20, 0, 0, 0]])
    assert loads.max_over_mean(load).tolist() == [1, 4]
    assert loads.gini(load) == pytest.approx([0, 0.75])
    assert loads.entropy_ratio(load) == pytest.approx([1, 0])
    assert loads.hottest_rank(load, 2).tolist() == [1, 2]
    assert loads.drop_share(load, 1.0).tolist() == [0, 0.75]
    assert loads.drop_share(load, 2.0).tolist() == [0, 0.5]


def test_ranks_hold_contiguous_experts_as_evenly_as_they_can():
    load = np.arange(6)
    assert loads.rank_load(load, 3).tolist() == [1, 5, 9]
    assert loads.rank_load(load, 4).tolist() == [0, 1 + 2, 3, 4 + 5]


def test_group_correlation_tells_clustered_from_scattered():
    rng = np.random.default_rng(0)
    scattered = 1000 * np.exp(rng.normal(0, 0.7, (400, 64)))
    clustered = scattered * np.exp(rng.normal(0, 0.7, (400, 8, 1)).repeat(8, axis=2).reshape(400, 64))
    assert loads.group_correlation(scattered, 8).mean() == pytest.approx(0, abs=0.02)
    assert loads.group_correlation(clustered, 8).mean() == pytest.approx(0.5, abs=0.05)
    assert np.isnan(loads.group_correlation(scattered, 1)).all()


@settings(max_examples=50, deadline=None)
@given(positive_loads, st.integers(2, 9))
def test_statistics_ignore_scale_and_stay_in_bounds(load, scale):
    for statistic in (loads.max_over_mean, loads.gini, loads.entropy_ratio):
        np.testing.assert_allclose(statistic(load), statistic(load * scale), atol=1e-9)
    assert (loads.gini(load) >= -1e-9).all()
    assert (loads.entropy_ratio(load) <= 1 + 1e-9).all()
    if load.shape[1] % 2 == 0:
        assert (loads.hottest_rank(load, 2) <= loads.max_over_mean(load) + 1e-9).all()


def test_load_counts_valid_choices_only():
    ids = np.array([[[0, 1]], [[1, 2]], [[1, 0]]], dtype=np.uint8)
    trace = RouterTrace("t", ids=ids, offsets=np.array([0, 3]), experts=4)
    assert loads.expert_load(trace).tolist() == [[2, 3, 1, 0]]
    short = RouterTrace("t", ids=ids, offsets=np.array([0, 3]), experts=4, count=np.array([[2], [1], [0]], np.uint8))
    assert loads.expert_load(short).tolist() == [[1, 2, 0, 0]]


def test_load_is_the_same_read_in_windows(monkeypatch):
    ids = np.argsort(np.random.default_rng(0).random((500, 3, 8)), axis=-1)[..., :2].astype(np.uint8)
    trace = RouterTrace("t", ids=ids, offsets=np.array([0, 500]), experts=8)
    whole = loads.expert_load(trace)
    assert whole.sum() == ids.size
    monkeypatch.setattr(loads.windows, "__defaults__", (64,))
    np.testing.assert_array_equal(loads.expert_load(trace), whole)


def test_load_correlation():
    hot, same, other = np.array([[1, 2, 3.0]]), np.array([[2, 4, 6.0]]), np.array([[3, 2, 1.0]])
    assert loads.load_correlation(hot, same) == pytest.approx([1])
    assert loads.load_correlation(hot, other) == pytest.approx([-1])


@pytest.mark.parametrize("bad", [np.zeros((2, 4)), np.ones(4), np.full((1, 4), np.nan), np.array([[1, -1]])])
def test_tables_that_are_no_loads_are_refused(bad):
    with pytest.raises(InvalidInput):
        loads.LoadTable("bad", bad)


def test_deepseek_r1_counts_have_their_published_skew(deepseek_r1_loads):
    """The ranges over twelve workloads that a placement or a synthetic trace must live with."""

    def span(statistic, *arguments):
        means = [float(statistic(table, *arguments).mean()) for table in deepseek_r1_loads.values()]
        return pytest.approx((min(means), max(means)), rel=0.01)

    assert span(loads.max_over_mean) == (5.56, 8.12)
    assert span(loads.gini) == (0.323, 0.453)
    assert span(loads.hottest_rank, 8) == (1.54, 2.07)
    assert span(loads.hottest_rank, 32) == (2.05, 3.04)
    assert span(loads.hottest_rank, 128) == (3.75, 5.36)
    assert span(loads.group_correlation, 8) == (0.198, 0.342)


def test_tables_come_back_from_their_file(tmp_path):
    table = loads.LoadTable("r1", np.array([[1.0, 2, 3]]), top_k=2, source="counted", dropped=4, metadata={"a": 1})
    back = loads.open_load_table(loads.write_load_table(tmp_path / "r1.safetensors", table))
    np.testing.assert_array_equal(back.load, table.load)
    assert (back.name, back.top_k, back.source, back.dropped, back.metadata) == ("r1", 2, "counted", 4, {"a": 1})
    ids = np.array([[[0, 1]]], dtype=np.uint8)
    path = write_trace(tmp_path / "trace.safetensors", RouterTrace("t", ids, np.array([0, 1]), experts=4))
    with pytest.raises(InvalidInput, match=r"trace\.safetensors: is a router trace, not a load table"):
        loads.open_load_table(path)
