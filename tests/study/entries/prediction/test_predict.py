"""Published figures become scenarios: what is predicted, what is refused, and that no value is ever read."""

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import Infeasible, MoesimError
from moesim.study.entries.calibration.factors import Calibration, Factors
from moesim.study.entries.fitting.score import rank_correlations, statistics
from moesim.study.entries.prediction.predict import case_of, converted_share, predict_entry, predict_table
from moesim.study.entries.prediction.quantities import read
from moesim.study.entries.reading.case import Case, NotStated
from moesim.study.entries.reading.entry import Entry, entry_of, read_entries
from moesim.study.entries.reading.quantity import Quantity
from moesim.study.entries.runs.outcome import Outcome
from moesim.study.entries.runs.runner import Runner

FIGURES = [
    {
        "id": "one", "source": "s", "kind": "inference", "model": "Qwen3-30B-A3B", "hardware": "B200",
        "num_devices": 1, "parallelism": "TP1", "precision": "FP4", "batch": "concurrency 4", "input_len": "512",
        "output_len": "64", "software": "TensorRT-LLM", "metric": "output throughput per GPU", "value": 900.0,
        "unit": "output tok/s/GPU",
    },
    {
        "id": "two", "source": "s", "kind": "inference", "model": "Qwen3-30B-A3B", "hardware": "an abacus",
        "metric": "TPOT", "value": 3.0, "unit": "ms",
    },
    {"id": "three", "source": "s", "kind": "imbalance", "metric": "hottest expert", "value": 5.6, "unit": "x"},
    {
        "id": "four", "source": "s", "kind": "collective", "hardware": "H800 + CX7", "num_devices": 16,
        "precision": "FP8", "batch": "128 tokens/rank", "software": "DeepEP V1", "value": 118.0, "unit": "us",
        "metric": "dispatch latency (low-latency kernel)",
    },
]  # fmt: skip


def _predict(tmp_path, figures, jobs=1):
    path = tmp_path / "figures.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(figures))
    entries, table = read_entries(path)
    return predict_table(entries, table, Runner(tmp_path / "cache"), jobs=jobs)


def test_every_entry_has_a_row_and_a_prediction_or_a_reason(tmp_path):
    found = _predict(tmp_path, FIGURES).set_index("id")
    assert list(found.index) == ["one", "two", "three", "four"]
    assert found.loc["one", "low"] < found.loc["one", "predicted"] < found.loc["one", "high"]
    assert 100 < found.loc["one", "predicted"] < 5000
    assert "abacus" in found.loc["two", "reason"]
    assert found.loc["three", "reason"]
    assert found.loc["four", "predicted"] == pytest.approx(118, rel=0.15)
    assert ((found["reason"] == "") == np.isfinite(found["predicted"])).all()
    assert converted_share(found) == 0.5


def test_predictions_do_not_depend_on_values(tmp_path):
    with_values = _predict(tmp_path, FIGURES)
    changed = [{**f, "value": 1000.0 * n, "note": f"gave {n}"} for n, f in enumerate(FIGURES)]
    without = [{key: v for key, v in f.items() if key not in ("value", "context_quote")} for f in FIGURES]
    for other in (changed, without):
        found = _predict(tmp_path, other)
        pd.testing.assert_frame_equal(with_values.drop(columns="value"), found.drop(columns="value"))


def test_processes_share_the_work_and_change_nothing(tmp_path):
    together = _predict(tmp_path / "two", FIGURES, jobs=2)
    pd.testing.assert_frame_equal(together, _predict(tmp_path / "one", FIGURES))
    assert len(list((tmp_path / "two" / "cache").glob("published-*.json"))) == 1


def test_an_interrupted_run_goes_on_from_its_cache(tmp_path):
    first = Runner(tmp_path)
    entry = Entry(**{k: str(v) for k, v in FIGURES[0].items() if k not in ("value", "num_devices")}, devices=1)
    document = case_of(entry, first).document
    outcome = first.run(document)
    (kept,) = tmp_path.glob("published-*.json")
    kept.write_text(kept.read_text().replace(str(outcome.devices), str(outcome.devices)))
    assert Runner(tmp_path).run(document) == outcome


def test_what_does_not_fit_is_known_as_such_when_read_back(tmp_path):
    document = {
        "model": "deepseek-v3", "cluster": {"hardware": "h100", "devices": 2},
        "parallelism": {"attention_dp": 2, "tp": 1, "ep": 2, "expert_tp": 1},
        "precision": {"experts": "bf16", "dense": "bf16", "dispatch": "bf16", "combine": "bf16", "kv": "bf16"},
        "routing": {"kind": "balanced"}, "placement": {"kind": "contiguous", "slots_per_rank": 128},
        "overlap": {"kind": "none"}, "workload": {"kind": "decode", "sequences_per_rank": 8, "context": 100},
    }  # fmt: skip
    for _ in range(2):
        with pytest.raises(Infeasible, match="does not fit"):
            Runner(tmp_path).run(document)
    with pytest.raises(MoesimError) as other:
        Runner(tmp_path).run({**document, "model": "nobody's"})
    assert not isinstance(other.value, Infeasible)


def test_a_server_that_cannot_be_is_refused():
    entry = Entry("x", model="DeepSeek-V3", hardware="H100", devices=8, parallelism="DEP16", metric="TPOT", unit="ms")
    with pytest.raises(NotStated, match="16 devices, but 8"):
        case_of(entry, Runner())


def _case(**quantity):
    return Case("x", {}, Quantity(**quantity), "s")


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ({"what": "tokens", "side": "output", "per": "device"}, 100 / 2 / 8),
        ({"what": "tokens", "side": "output", "per": "node"}, 100 / 2 / 2),
        ({"what": "tokens", "side": "output", "per": "rank"}, 100 / 2 / 4),
        ({"what": "tokens", "side": "total", "per": "system"}, 140 / 2),
        ({"what": "step", "scale": 1e-3}, 2000),
        ({"what": "tpot", "scale": 1e-3}, 10),
        ({"what": "ttft", "statistic": "p99"}, 0.7),
        ({"what": "user"}, 100),
        ({"what": "samples"}, 5),
        ({"what": "flops", "per": "device", "scale": 1e12}, 2),
        ({"what": "mfu", "scale": 0.01}, 20),
        ({"what": "train_time", "tokens": 1000}, 20),
        ({"what": "device_time", "tokens": 1000, "scale": 3600}, 160 / 3600),
    ],
)
def test_quantities_are_read_off_an_outcome(quantity, value):
    outcome = Outcome(
        devices=8, node=4, total_s=2.0, seconds={"compute": 2.0}, input_tokens=40, output_tokens=100, sequences=10,
        ranks=4, ttft={"p99": 0.7}, tpot={"mean": 0.01}, model_flops=32e12, peak_flops_per_s=10e12,
    )  # fmt: skip
    assert read(_case(**quantity), outcome, 1.0) == pytest.approx(value)


def test_factors_weigh_kinds_of_work():
    outcome = Outcome(1, 1, 4.0, {"experts": 3.0, "host": 1.0})
    assert Factors().scale(outcome, None) == 1
    assert Factors({"experts": 2.0}).scale(outcome, None) == pytest.approx(7 / 4)
    assert Factors(ageing=0.3).scale(outcome, 1.0) == pytest.approx(np.exp(0.3))
    shared = Calibration({"any load": Factors({"host": 2.0})})
    assert shared.of("unheard load").factors == {"host": 2.0}
    assert shared.of("unheard decode").factors == {}


def test_order_within_a_source_is_judged_from_five_entries_of_a_unit():
    table = pd.DataFrame(
        {
            "source": ["a"] * 6 + ["b"] * 2, "unit": "ms", "value": [1, 2, 3, 4, 5, np.nan, 1, 2],
            "predicted": [1, 3, 2, 4, 5, 9, 2, 1], "low": 0, "high": 9,
        }
    )  # fmt: skip
    assert rank_correlations(table) == {("a", "ms"): pytest.approx(0.9)}
    overall = statistics(table).iloc[-1]
    assert (overall["entries"], overall["predicted"], overall["spearman"]) == (8, 8, pytest.approx(0.9))


TEXT = st.text(max_size=25) | st.sampled_from(
    [
        "H100",
        "DGX-GB200",
        "DeepSeek-V3",
        "Mixtral 8x7B",
        "TP8",
        "EP0 TP0",
        "DEP999",
        "FP8",
        "MXFP9",
        "GBS 0",
        "1K",
        "-5",
    ]
)


@given(st.fixed_dictionaries({name: TEXT for name in Entry.__slots__ if name not in ("id", "devices", "kind")}))
@settings(max_examples=60)
def test_whatever_is_written_gets_a_case_or_a_reason(texts):
    class Nothing(Runner):
        def run(self, data):
            raise MoesimError("not run here")

    for kind in ("training", "inference"):
        found = predict_entry(entry_of(texts | {"kind": kind, "num_devices": texts["batch"]}), Nothing(), Calibration())
        assert found.reason
        assert "cannot be converted" not in found.reason
