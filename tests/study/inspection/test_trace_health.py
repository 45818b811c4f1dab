"""What ``moesim trace`` prints, and its pictures."""

import json

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.report.figures.traces import write_trace_report
from moesim.routing.latent import Geometry, LatentModel, draw
from moesim.routing.trace import RouterTrace, encode_gates, write_trace
from moesim.study.inspection import trace_health


@pytest.fixture
def paths(tmp_path):
    """Three trace files: two of one geometry and one of another."""
    offsets = np.arange(0, 1025, 128)
    model = LatentModel(5, 0.95, (0.5, 0.3, 0.1, 0.1))
    written = []
    for name, geometry, seed in (
        ("a", Geometry(3, 32, 4), 0),
        ("b", Geometry(3, 32, 4), 1),
        ("c", Geometry(1, 8, 2), 0),
    ):
        rng = np.random.default_rng(seed)
        load = np.exp(rng.normal(0, 0.6, (geometry.layers, geometry.experts)))
        ids = draw(model, load, geometry, offsets, rng)
        trace = RouterTrace(name, ids, offsets, geometry.experts, gates=encode_gates(rng.random(ids.shape)))
        written.append(write_trace(tmp_path / f"{name}.safetensors", trace))
    return written


def test_health_is_plain_json(paths):
    told = trace_health.health_as_json(trace_health.examine(paths[0]))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["name"], told["experts"], told["schema_version"]) == ("a", 32, 1)
    assert told["moments"]["hottest_rank"]["8"] > 1
    assert len(told["per_layer"]["gini"]) == 3
    assert {verdict["topic"] for verdict in told["verdicts"]} >= {"collapse", "balance", "ranks", "persistence"}


def test_traces_are_compared(paths):
    seen = [trace_health.examine(path) for path in paths]
    table = trace_health.comparison(seen)
    assert table["trace"].tolist() == ["a", "b", "c"]
    assert np.isnan(table.loc[2, "next_layer_hit"])
    correlations = trace_health.load_correlations(seen)
    assert correlations.loc["a", "a"] == pytest.approx(1)
    assert abs(correlations.loc["a", "b"]) < 0.9
    assert np.isnan(correlations.loc["a", "c"])
    told = trace_health.comparison_as_json(seen)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["load_correlation"][0][2] is None


def test_pictures_are_written(paths, tmp_path):
    seen = [trace_health.examine(path) for path in paths]
    written = write_trace_report(seen[:2], tmp_path / "out")
    names = ["a_load.png", "b_load.png", "skew.png", "dependence.png", "load_correlation.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert len(write_trace_report(seen, tmp_path / "all")) == 5  # loads of different shape have no correlation


def test_faulty_traces_are_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"cut\.safetensors"):
        trace_health.examine(tmp_path / "cut.safetensors")
