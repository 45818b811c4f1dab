"""The measured rows that ship with the package, predicted with the profiles that ship with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import moesim
from moesim.cost.calibration import machine_for
from moesim.cost.table_kinds import KINDS
from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.kernels.validate import predict_table, statistics
from moesim.study.validation.tables import read_table, table_kind

SAMPLE = Path(moesim.__file__).parent / "data" / "measured"
MEASURED = ("b200", "gb200_nvl72", "h100", "h200")
# kind -> (median, P90) absolute error that the shipped fits must keep on the sample
LIMITS = {
    "gemm": (0.06, 0.19),
    "moe": (0.10, 0.32),
    "attention": (0.08, 0.25),
    "mla": (0.06, 0.22),
    "collective": (0.08, 0.35),
    "all_to_all": (0.08, 0.20),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_the_shipped_fits_predict_the_shipped_rows(kind):
    table = read_table(SAMPLE / f"{kind}.parquet")
    assert table_kind(table) == kind
    found = predict_table(table, load_profile)
    overall = statistics(found).iloc[-1]
    assert overall["refused"] == 0
    median, p90 = LIMITS[kind]
    assert overall["median_ape"] <= median
    assert overall["p90_ape"] <= p90
    assert abs(overall["bias"]) < 0.03
    assert overall["rank_correlation"] > 0.97
    assert 0.70 <= overall["coverage"] <= 0.95  # of shapes that the fits have seen; held out it is 80 %
    assert overall["width"] <= 2


def test_the_sample_is_small_and_attributed():
    assert sum(path.stat().st_size for path in SAMPLE.glob("*.parquet")) < 500_000
    notice = (SAMPLE / "NOTICE.md").read_text()
    assert "NVIDIA" in notice
    assert "Apache License 2.0" in notice


@pytest.mark.parametrize("name", MEASURED)
def test_measured_profiles_hold_fits_of_every_family(name):
    machine = machine_for(load_profile(name), None, load_profile)
    assert machine.origin == "measured"
    assert set(machine.fits) >= {family.name for phases in KINDS.values() for family in phases.values()}
    for fits in machine.fits.values():
        for fit in fits:
            assert 0 < fit.interval[0] <= 1 <= fit.interval[1]
            assert all(np.isfinite(value) and value > 0 for value in fit.parameters.values())
