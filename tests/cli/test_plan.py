"""``moesim plan`` as a user types it."""

import json

TEXT = """
model: gpt-oss-120b
load: {rate: 4, input: {kind: fixed, tokens: 500}, output: {kind: fixed, tokens: 100}, requests: 60}
slo: {ttft: 1 s, tpot: 40 ms}
search:
  - hardware: h100
    software: vllm
    devices: [1, 2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
routing: {kind: lognormal, sigma: 0.8}
finalists: 0
"""


def test_a_plan_is_printed_drawn_and_dumped(moesim, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(TEXT)
    code, out, err = moesim("plan", path, "--jobs", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert "recommended" in out
    assert "what binds" in out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plan.png", "candidates.parquet", "metrics.json"}
    code, out, _ = moesim("plan", path, "--jobs", 1, "--json", "--set", "load.rate=8")
    assert code == 0
    assert json.loads(out)["rate"] == 8


def test_an_unmet_objective_exits_with_one(moesim, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(TEXT.replace("tpot: 40 ms", "tpot: 2 ms"))
    code, out, _ = moesim("plan", path, "--jobs", 1)
    assert code == 1
    assert "nothing meets the objectives" in out
