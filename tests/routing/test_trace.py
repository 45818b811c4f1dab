"""The trace file: what is written comes back, any safetensors reader opens it, and bad files say what is wrong."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from moesim.errors import InvalidInput
from moesim.routing import trace as trace_module
from moesim.routing.checks import check_trace
from moesim.routing.trace import RouterTrace, decode_gates, encode_gates, open_trace, write_trace


def make(tokens=40, layers=3, k=2, experts=8, sequences=4, seed=0, **fields) -> RouterTrace:
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=-1)[..., :k]
    offsets = np.linspace(0, tokens, sequences + 1).astype(int)
    return RouterTrace("toy", ids=ids, offsets=offsets, experts=experts, **fields)


def test_everything_comes_back(tmp_path):
    rng = np.random.default_rng(1)
    trace = make(
        groups=4,
        gates=encode_gates(rng.random((40, 3, 2))),
        phase=np.repeat([0, 1], 20).astype(np.uint8),
        step=np.arange(40, dtype=np.int32),
        positions=np.arange(40, dtype=np.int32),
        token_ids=np.arange(40, dtype=np.uint16),
        count=np.full((40, 3), 2, dtype=np.uint8),
        labels=("law", "law", "código", "prose"),
        source="a toy",
        synthetic=True,
        metadata={"model": "none", "moments": {"gini": 0.25}},
    )
    back = open_trace(write_trace(tmp_path / "toy.safetensors", trace))
    for field in dataclasses.fields(RouterTrace):
        before, after = getattr(trace, field.name), getattr(back, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after
    assert back.ids.dtype == np.uint8
    assert not back.ids.flags.writeable


def test_more_than_256_experts_take_two_bytes(tmp_path):
    trace = make(experts=384, k=8)
    back = open_trace(write_trace(tmp_path / "wide.safetensors", trace))
    assert back.ids.dtype == np.uint16
    np.testing.assert_array_equal(back.ids, trace.ids)


def test_any_safetensors_reader_opens_it_and_bytes_repeat(tmp_path):
    trace = make(metadata={"b": 1, "a": 2})
    first = write_trace(tmp_path / "one.safetensors", trace)
    second = write_trace(tmp_path / "two.safetensors", trace)
    np.testing.assert_array_equal(load_file(first)["ids"], trace.ids)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_gate_codes_err_by_at_most_4_in_1000():
    weights = np.linspace(0, 1, 100_001)
    assert np.abs(decode_gates(encode_gates(weights)) - weights).max() <= 0.004


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4)), elements={"max_value": 5})
)
def test_the_scan_agrees_with_a_plain_one(ids):
    trace = RouterTrace("t", ids=ids, offsets=np.array([0, len(ids)]), experts=5)
    good = all(len(set(row)) == len(row) and max(row) < 5 for row in ids.reshape(-1, ids.shape[2]).tolist())
    if good:
        check_trace(trace)
    else:
        with pytest.raises(InvalidInput):
            check_trace(trace)


def test_choices_beyond_the_count_are_ignored():
    ids = np.array([[[1, 1, 9]], [[2, 3, 2]]], dtype=np.uint8)
    trace = RouterTrace("t", ids=ids, offsets=np.array([0, 2]), experts=4, count=np.array([[1], [2]], dtype=np.uint8))
    check_trace(trace)
    with pytest.raises(InvalidInput, match="repeated in a row"):
        check_trace(dataclasses.replace(trace, count=np.array([[2], [2]], dtype=np.uint8)))
    with pytest.raises(InvalidInput, match="counts up to 4 choices"):
        check_trace(dataclasses.replace(trace, count=np.array([[4], [2]], dtype=np.uint8)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ids": np.zeros((0, 3, 2), np.uint8), "offsets": np.array([0])}, "is empty"),
        ({"ids": np.zeros((40, 6), np.uint8)}, r"shape \(40, 6\); write \[token, layer, k\]"),
        ({"ids": np.full((40, 3, 2), -1)}, "negative ids are padding"),
        ({"ids": np.full((40, 3, 1), 8)}, "below the 8 experts"),
        ({"ids": np.zeros((40, 3, 2), np.uint8)}, r"repeated in a row: \[0, 0\] at token 0, layer 0"),
        ({"ids": np.zeros((40, 3, 2))}, "float64"),
        ({"offsets": np.array([0, 20, 39])}, "offsets: must run from 0 to the 40 tokens"),
        ({"offsets": np.array([0, 20, 20, 40])}, "offsets: must rise"),
        ({"labels": ("law",)}, "1 labels for 4 sequences"),
        ({"gates": np.zeros((40, 3, 1), np.uint8)}, "gates: has shape"),
        ({"phase": np.full(40, 2)}, "phase: holds values"),
        ({"groups": 3}, "3 groups do not divide 8"),
        ({"experts": 1}, "cannot give 2 different"),
    ],
)
def test_what_is_no_trace_is_refused_before_anything_is_written(tmp_path, fields, message):
    with pytest.raises(InvalidInput, match=message) as error:
        write_trace(tmp_path / "bad.safetensors", dataclasses.replace(make(), **fields))
    assert "bad.safetensors" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_all_problems_of_a_file_come_at_once():
    trace = dataclasses.replace(make(), labels=("a",), groups=3, phase=np.zeros(7))
    with pytest.raises(InvalidInput) as error:
        check_trace(trace)
    assert [problem.field for problem in error.value.problems] == ["groups", "labels", "phase"]


@pytest.mark.parametrize("kept", [0, 5, 60, -1, -150])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = write_trace(tmp_path / "cut.safetensors", make())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidInput, match=r"cut\.safetensors: .*(truncated|cannot be read|not a safetensors)"):
        open_trace(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"nothing\.safetensors: cannot be read: No such file"):
        open_trace(tmp_path / "nothing.safetensors")
    save_file({"ids": np.zeros((2, 2, 2), np.uint8)}, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidInput, match="moesim import-trace"):
        open_trace(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_bytes(struct.pack("<Q", 4) + b"text and more")
    with pytest.raises(InvalidInput, match="not JSON"):
        open_trace(tmp_path / "text.safetensors")
    about = {"format": 99}
    save_file({"ids": np.zeros((2, 2, 2), np.uint8)}, tmp_path / "new.safetensors", {"moesim_trace": json.dumps(about)})
    with pytest.raises(InvalidInput, match="is of format 99; this moesim reads format 1"):
        open_trace(tmp_path / "new.safetensors")


def _write_unchecked(path, monkeypatch, trace):
    monkeypatch.setattr(trace_module, "check_trace", lambda *_: None)
    write_trace(path, trace)
    monkeypatch.undo()


def test_ids_of_small_files_are_scanned_at_open_and_of_large_ones_on_demand(tmp_path, monkeypatch):
    ids = make().ids
    ids[30, 2] = 7
    path = tmp_path / "repeats.safetensors"
    _write_unchecked(path, monkeypatch, dataclasses.replace(make(), ids=ids))
    with pytest.raises(InvalidInput, match=r"repeats.* repeated in a row: \[7, 7\] at token 30, layer 2"):
        open_trace(path)
    monkeypatch.setattr(trace_module, "CHECKED_AT_OPEN_BYTES", 10)
    trace = open_trace(path)
    with pytest.raises(InvalidInput, match="token 30"):
        check_trace(trace, str(path))
