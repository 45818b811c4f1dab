"""Calibrating a profile from a synthetic machine, and what may go wrong on the way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from moesim.cost.family import default_fit
from moesim.cost.gemm import GEMM, predict
from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.study.validation.kernels.calibrate import calibrate, calibration_block, write_calibration

DEVICE = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)
TOY = Hardware("toy", "toy", DEVICE, Host(None, None, None), {})
PROFILE = """\
# A device of my own
title: toy  # as a comment
calibration: none   # nothing yet
# below
unverified: []
"""


def table(rows: int = 150) -> pd.DataFrame:
    """Times of a machine that obeys the equation with other parameters, to 2 %."""
    rng = np.random.default_rng(3)
    sizes = np.array([64, 256, 768, 2048, 7168])
    data = {"m": 2.0 ** rng.integers(0, 13, rows), "n": rng.choice(sizes, rows), "k": rng.choice(sizes, rows)}
    frame = pd.DataFrame(data).assign(hardware="toy", software="stack 1.0", kernel="linear", dtype="bfloat16")
    truth = default_fit(GEMM)
    seconds = predict(DEVICE, {c: frame[c].to_numpy() for c in frame}, truth.parameters | {"t0": 9e-6}, truth.choices)
    return frame.assign(latency_s=seconds * np.exp(0.02 * rng.standard_normal(rows)))


@pytest.fixture(scope="module")
def found():
    return calibrate({"t.parquet": table()}, TOY, lambda name: TOY, folds=2)


def test_finds_the_machine(found):
    (fitted,) = found.fits["gemm"]
    assert fitted.parameters["t0"] == pytest.approx(9e-6, rel=0.1)
    assert fitted.held_out
    row = found.summary.iloc[0]
    assert row["after_median"] < 0.04 < row["before_median"]
    assert {"before_s", "after_s", "held_out_s", "family"} <= set(found.rows)


def test_the_block_is_spliced_and_the_rest_stays(tmp_path, found):
    path = tmp_path / "toy.yaml"
    path.write_text(PROFILE)
    block = calibration_block({}, found.fits, source="my bench", date="2026-02-03")
    write_calibration(path, block, lambda file: yaml.safe_load(file.read_text()))
    text = path.read_text()
    assert text.startswith("# A device of my own\ntitle: toy  # as a comment\ncalibration:\n  source: my bench\n")
    assert text.endswith("# below\nunverified: []\n")
    assert yaml.safe_load(text)["calibration"] == block
    write_calibration(path, block, lambda file: None)
    assert path.read_text() == text


def test_other_kernels_and_the_sibling_stay(found):
    kept = {"software": "old 1", "kernel": "x", "dtype": "fp8"}
    block = calibration_block({"like": "h9", "gemm": [kept]}, found.fits, source="s", date="2026-02-03")
    assert block["like"] == "h9"
    assert kept in block["gemm"]
    assert len(block["gemm"]) == 2


def test_a_profile_that_would_break_is_left_alone(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(PROFILE)

    def refuse(file):
        raise InvalidInput("no")

    with pytest.raises(InvalidInput):
        write_calibration(path, {"source": "s"}, refuse)
    assert path.read_text() == PROFILE
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="latency_s"), "add a column latency_s"),
        (lambda t: t.drop(columns="k"), "match no kind of table"),
        (lambda t: t.assign(latency_s=t["latency_s"] * 1e6), "does not look like seconds"),
        (lambda t: t.assign(latency_s=0.0), "must be positive"),
        (lambda t: t.head(8), "8 points cannot fit"),
        (lambda t: t.assign(m=64.0), "all rows have one m"),
        (lambda t: t.assign(dtype="nvfp4"), "toy has no fp4 matrix units"),
        (lambda t: t.assign(m=-1.0), "m must be a positive number"),
        (lambda t: t.assign(hardware="h9"), "no row was measured on toy"),
    ],
)
def test_bad_tables_are_named(spoil, message):
    with pytest.raises(InvalidInput, match=message) as error:
        calibrate({"mine.csv": spoil(table(60))}, TOY, lambda name: TOY)
    assert "mine.csv" in str(error.value)


@pytest.mark.parametrize("host", ["", "host:  # mine\n  memory: 1 GB  # of mine\n", "host: {memory: 1 GB}\n"])
def test_a_hosts_launch_is_written_where_there_is_none(tmp_path, host):
    path = tmp_path / "toy.yaml"
    path.write_text(PROFILE.replace("calibration:", f"{host}calibration:", 1))
    write_calibration(path, {"source": "s"}, lambda file: None, {"stack": 21e-6})
    written = yaml.safe_load(path.read_text())
    assert written["host"]["launch"] == {"stack": "21 us"}
    assert written["host"].get("memory") == ("1 GB" if host else None)
    before = path.read_text()
    write_calibration(path, {"source": "s"}, lambda file: None, {"stack": 50e-6})
    assert path.read_text() == before
    write_calibration(path, {"source": "s"}, lambda file: None, {"stack": 21e-6, "other": 9e-6})
    assert yaml.safe_load(path.read_text())["host"]["launch"] == {"stack": "21 us", "other": "9 us"}
