"""The validation page from the rows that ship with the package."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.report.validation_page import write_validation
from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.kernels.evidence import errors, judged
from moesim.study.validation.kernels.validate import predict_table, sample_tables
from moesim.study.validation.tables import read_table

FIGURE = {
    "id": "one", "source": "a page", "kind": "kernel", "hardware": "H100", "precision": "bf16", "software": "any",
    "batch": "", "metric": "dense GEMM throughput M=4096 N=4096 K=4096", "value": 600.0, "unit": "TFLOPS",
}  # fmt: skip


@pytest.fixture(scope="module")
def evidence():
    (path,) = (path for path in sample_tables() if path.stem == "gemm")
    table = read_table(path)
    table = table[table["hardware"].isin(["h100", "h200"])]
    seconds = predict_table(table, load_profile)["predicted_s"]
    return table.assign(family="gemm", before_s=seconds, after_s=seconds, held_out_s=seconds)


def test_a_sibling_predicts_with_its_own_fits_and_the_floor_needs_none(evidence):
    rows = judged(evidence, load_profile, {"h100": "h200"})
    assert np.isfinite(rows.loc[rows["hardware"] == "h100", "sibling_s"]).mean() > 0.9
    assert rows.loc[rows["hardware"] == "h200", "sibling_s"].isna().all()
    assert (rows["default_s"] >= rows["floor_s"]).all()
    assert (rows["sibling_s"].dropna() != rows.loc[rows["sibling_s"].notna(), "held_out_s"]).any()


def test_errors_by_hand(evidence):
    two = evidence.head(2).assign(latency_s=[1.0, 2.0], p=[1.1, 1.0], low=[0.9, 0.9], high=[1.8, 1.8])
    found = errors(two, "p", "low", "high")
    assert found["median"] == pytest.approx(0.3)
    assert found["coverage"] == pytest.approx(0.5)
    assert found["width"] == pytest.approx(2.0)
    assert errors(two.assign(p=np.nan), "p", "low", "high") == {"rows": 0}


def test_the_page_names_targets_and_its_pictures_exist(evidence, tmp_path):
    page = write_validation(evidence, [FIGURE], load_profile, tmp_path)
    text = page.read_text()
    assert "| gemm |" in text
    assert "| 5 / 17 |" in text
    assert "dense GEMM throughput M=4096" in text
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(pictures) == 2
    assert all((tmp_path / picture).stat().st_size > 1000 for picture in pictures)
    assert not list(tmp_path.glob(".*"))
