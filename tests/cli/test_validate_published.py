"""``moesim validate`` of published figures, as a user types it."""

import pandas as pd
import yaml

FIGURES = [
    {
        "id": "one", "source": "s", "kind": "inference", "model": "Qwen3-30B-A3B", "hardware": "B200",
        "num_devices": 1, "parallelism": "TP1", "precision": "FP4", "batch": "concurrency 4", "input_len": "512",
        "output_len": "64", "software": "TensorRT-LLM", "metric": "output throughput per GPU", "value": 900.0,
        "unit": "output tok/s/GPU",
    },
    {"id": "two", "kind": "training", "metric": "step time", "unit": "s", "value": 3, "hardware": "an abacus"},
]  # fmt: skip
COLUMNS = ["id", "source", "kind", "value", "unit", "predicted", "low", "high", "assumed", "reason"]


def test_a_list_of_figures(tmp_path, moesim, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, out = tmp_path / "figures.yaml", tmp_path / "P.parquet"
    path.write_text(yaml.safe_dump(FIGURES))
    code, printed, _ = moesim("validate", path, "--out", out)
    assert code == 0
    assert "converted 50.0% of 2 inference and training entries" in printed
    table = pd.read_parquet(out)
    assert list(table.columns) == COLUMNS
    assert table["predicted"].notna().tolist() == [True, False]


def test_what_is_no_list_of_figures_is_refused(tmp_path, moesim):
    path = tmp_path / "figures.yaml"
    path.write_text("a: 1\n")
    code, _, complaint = moesim("validate", path)
    assert code == 2
    assert "holds no list of published figures" in complaint
