"""Predicting tables of serving runs; measured anchors where the measurements are at hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moesim.study.validation.serving.predict import ADDED, predict_serving
from moesim.study.validation.serving.scores import chosen_by_prediction, serving_statistics

MEASURED = Path(__file__).parents[5] / "shared" / "measurements" / "serving.parquet"
ROW = {
    "hardware": "h200", "model": "gpt-oss-120b", "software": "vllm", "precision": "fp4", "input_len": 1024,
    "output_len": 256, "concurrency": 4, "gpus": 2, "ep": 1, "attention_dp": 1, "client": "inferencex",
    "measured": "2026-03-27",
}  # fmt: skip


def table(*changes):
    return pd.DataFrame([ROW | change for change in changes])


def test_every_row_gets_a_prediction_with_an_interval_around_it():
    found = predict_serving(table({}, {"concurrency": 16}, {"precision": "bf16"}))
    assert (found["reason"] == "").all()
    assert list(found.columns[-8:]) == [*ADDED, "note", "reason"]
    assert (found["ttft_low_s"] < found["predicted_ttft_s"]).all()
    assert (found["predicted_tpot_s"] < found["tpot_high_s"]).all()
    assert found["predicted_tpot_s"].iloc[1] > found["predicted_tpot_s"].iloc[0]


def test_measured_columns_have_no_influence_and_others_pass_through():
    plain = predict_serving(table({}))
    with_measured = predict_serving(table({}).assign(ttft_s=9.0, tpot_s=9.0, row_id="a"))
    assert plain["predicted_tpot_s"].equals(with_measured["predicted_tpot_s"])
    assert with_measured["row_id"].tolist() == ["a"]


def test_rows_that_cannot_be_predicted_say_why():
    found = predict_serving(
        table(
            {"hardware": "h1000"},
            {"gpus": 3},
            {"precision": "fp2"},
            {"concurrency": np.nan},
            {"model": "gpt-4-rumoured"},
        )
    )
    assert found["predicted_tpot_s"].isna().all()
    for reason, words in zip(found["reason"], ("h1000", "3", "fp2", "concurrency", "rumoured"), strict=True):
        assert words in reason


def test_a_validation_goes_on_where_it_stopped(tmp_path):
    first = predict_serving(table({}), cache=tmp_path)
    assert list(tmp_path.glob("serving-*.json"))
    again = predict_serving(table({}), cache=tmp_path)
    assert first["predicted_ttft_s"].equals(again["predicted_ttft_s"])


def test_choosing_by_prediction_is_judged_within_model_lengths_and_concurrency():
    found = table({"gpus": 1}, {"gpus": 2}, {"concurrency": 8})
    found = found.assign(
        ttft_s=0.1, tpot_s=[0.01, 0.008, 0.01], predicted_ttft_s=0.1, predicted_tpot_s=[0.02, 0.005, 0.01]
    )
    choices = chosen_by_prediction(found)
    assert len(choices) == 1
    per_gpu = [4 * 256 / (0.1 + 255 * tpot) / gpus for tpot, gpus in ((0.01, 1), (0.008, 2))]
    assert choices["share_of_best"].iloc[0] == pytest.approx(per_gpu[1] / max(per_gpu))


def test_predictions_stay_near_published_runs():
    """In-sample median errors of the shipped constants; docs/serving.md has the held-out ones."""
    if not MEASURED.exists():
        pytest.skip("the measurements are not at hand")
    runs = pd.read_parquet(MEASURED)
    runs = runs[runs["concurrency"] <= 32].iloc[::8]
    found = serving_statistics(predict_serving(runs), by=()).iloc[0]
    assert found["refused"] <= 0.02 * len(runs)
    assert found["tpot_median"] < 0.09
    assert found["ttft_median"] < 0.20


@pytest.mark.parametrize("software", ["vllm", "sglang", "trtllm"])
def test_weights_that_leave_no_room_are_refused_with_the_bytes_that_are_missing(software):
    found = predict_serving(
        table({"hardware": "h100", "model": "deepseek-v3", "precision": "fp8", "gpus": 8} | {"software": software})
    )
    assert found["predicted_tpot_s"].isna().all()
    missing = float(found["reason"][0].split("on every device, ")[1].split(" ")[0])
    assert 1e9 < missing < 30e9  # 87.6 GB of weights on 85.5 GB
