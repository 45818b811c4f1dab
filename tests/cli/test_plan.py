"""``moesim plan`` as a user types it."""

import json


def test_a_plan_is_printed_drawn_and_dumped(moesim, tmp_path, plan_text):
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text)
    code, out, err = moesim("plan", path, "--jobs", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert "recommended" in out
    assert "what binds" in out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plan.png", "candidates.parquet", "metrics.json"}
    code, out, _ = moesim("plan", path, "--jobs", 1, "--json", "--set", "load.rate=4")
    assert code == 0
    assert json.loads(out)["rate"] == 4


def test_an_unmet_objective_exits_with_one(moesim, tmp_path, plan_text):
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text.replace("tpot: 40 ms", "tpot: 2 ms"))
    code, out, _ = moesim("plan", path, "--jobs", 1)
    assert code == 1
    assert "nothing meets the objectives" in out
