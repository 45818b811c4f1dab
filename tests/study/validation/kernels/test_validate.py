"""Predicting tables: nothing measured has an influence, everything unusable is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moesim.cost.calibration import entry_from_fit
from moesim.cost.family import default_fit
from moesim.cost.gemm import GEMM
from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.study.validation.kernels.validate import ADDED, predict_table, statistics
from moesim.study.validation.tables import read_table

DEVICE = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)
FIT = replace(
    default_fit(GEMM),
    key={"software": "stack 1.0", "kernel": "linear", "dtype": "bfloat16"},
    points=50,
    shapes=5,
    error=(0.05, 0.2),
    interval=(0.8, 1.25),
    range={"m": (1.0, 1024.0)},
)


def lookup(name: str) -> Hardware:
    blocks = {"toy": {"gemm": [entry_from_fit(FIT)]}, "twin": {"like": "toy"}, "bare": {}}
    if name not in blocks:
        raise InvalidInput(f"hardware {name!r} is unknown")
    return Hardware(name, name, replace(DEVICE, name=name), Host(None, None, None), {}, calibration=blocks[name])


def table(**columns) -> pd.DataFrame:
    base = {"hardware": "toy", "software": "stack 1.0", "kernel": "linear", "dtype": "bfloat16", "m": 64, "n": 4096}
    return pd.DataFrame(base | {"k": 4096} | columns, index=range(max(map(np.size, [*columns.values(), 0]))))


def test_adds_its_columns_and_keeps_the_others():
    given = table(row_id=["a", "b"], m=[1, 64], comment=["x", "y"])
    found = predict_table(given, lookup)
    assert list(found.columns) == [*given.columns, *ADDED]
    assert (found["low_s"] < found["predicted_s"]).all()
    assert (found["predicted_s"] < found["high_s"]).all()
    assert (found[["note", "reason"]] == "").all(axis=None)


def test_measured_times_have_no_influence():
    given = table(m=[1, 64, 512])
    plain = predict_table(given, lookup)
    timed = predict_table(given.assign(latency_s=[1.0, np.nan, -3.0]), lookup)
    pd.testing.assert_frame_equal(plain, timed[plain.columns])


def test_order_and_index_of_rows_do_not_matter():
    given = table(m=[1, 64, 512, 2048], hardware=["toy", "bare", "toy", "twin"])
    found = predict_table(given, lookup)
    shuffled = predict_table(given.iloc[[2, 0, 3, 1]], lookup)
    pd.testing.assert_frame_equal(found, shuffled.sort_index())


def test_notes_say_where_a_prediction_comes_from():
    given = table(
        hardware=["toy", "toy", "twin", "bare"], m=[64, 4096, 64, 64], kernel=["linear", "linear", "linear2", "linear"]
    )
    notes = predict_table(given, lookup)["note"]
    assert notes[0] == ""
    assert notes[1] == "outside the calibrated range"
    assert notes[2] == "calibrated like toy; nearest measured kernel: stack 1.0 linear bfloat16"
    assert notes[3] == "uncalibrated: stated defaults"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"m": [64.0, 0.0]}, "m must be a positive number"),
        ({"n": [64.0, np.nan]}, "n must be a positive number"),
        ({"hardware": ["toy", "h42"]}, "hardware 'h42' is unknown"),
        ({"dtype": ["bfloat16", "nvfp4"]}, "toy has no fp4 matrix units (nvfp4 x nvfp4); it has bf16, fp8"),
        ({"dtype": ["bfloat16", None]}, "dtype is missing"),
    ],
)
def test_rows_that_cannot_be_predicted_say_why(columns, reason):
    found = predict_table(table(**columns), lookup)
    assert list(found["reason"]) == ["", reason]
    assert np.isnan(found["predicted_s"][1])


def test_columns_of_no_kind_are_an_error():
    with pytest.raises(InvalidInput, match="match no kind of table"):
        predict_table(table(m=[1]).drop(columns="k"), lookup)


def test_statistics_by_hand():
    found = pd.DataFrame({
        "hardware": ["a", "a", "a", "b"],
        "latency_s": [1.0, 2.0, 4.0, 1.0],
        "predicted_s": [1.1, 2.0, 3.0, np.nan],
        "low_s": [1.05, 1.0, 2.0, np.nan],
        "high_s": [1.2, 4.0, 4.0, np.nan],
        "reason": ["", "", "", "why"],
    })  # fmt: skip
    one, other, everything = statistics(found, ["hardware"]).to_dict("records")
    assert (one["rows"], one["refused"], other["refused"], everything["rows"]) == (3, 0, 1, 4)
    assert one["median_ape"] == pytest.approx(0.1)
    assert one["mape"] == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert one["bias"] == pytest.approx(0.0)
    assert one["rank_correlation"] == pytest.approx(1.0)
    assert one["coverage"] == pytest.approx(2 / 3)
    assert one["width"] == pytest.approx(2.0)
    assert np.isnan(other["median_ape"])


def test_statistics_without_measured_times_count_rows():
    assert statistics(predict_table(table(m=[1, 2]), lookup)).iloc[-1]["rows"] == 2


@pytest.mark.parametrize("name", ["none.parquet", "broken.parquet", "text.txt"])
def test_unreadable_files_are_named(tmp_path, name):
    if name != "none.parquet":
        (tmp_path / name).write_text("not a table")
    with pytest.raises(InvalidInput, match=name):
        read_table(tmp_path / name)


def test_csv_and_parquet_read_alike(tmp_path):
    given = table(m=[1, 64])
    given.to_csv(tmp_path / "t.csv", index=False)
    given.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet"), check_dtype=False)
