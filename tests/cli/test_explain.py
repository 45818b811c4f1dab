"""``moesim explain`` on scenarios of every kind."""

import pytest


def test_a_step(moesim, tmp_path):
    code, out, err = moesim("explain", "qwen3-235b-tpu-v5p", "--out", tmp_path / "map.png")
    assert code == 0
    assert "rank order: tp then attention_dp" in out
    assert "along axis 2 (4) of the torus 4 × 4 × 4" in out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "map.png" in err


def test_serving(moesim_json):
    data = moesim_json("explain", "serving-disaggregated-h100")
    assert data["what"].startswith("a decode step")
    assert {row["axis"] for row in data["groups"]} == {"tp", "ep"}
    assert data["collectives"][0]["bytes_per_step"] > 0


def test_the_pool_of_prefill_servers(moesim, moesim_json):
    data = moesim_json("explain", "serving-disaggregated-h100", "--pool", "prefill")
    assert data["what"].startswith("a prefill step of")
    assert moesim("explain", "serving-deepseek-v3-b200", "--pool", "prefill")[0] == 2
    assert "write decode or prefill" in moesim("explain", "quickstart", "--pool", "other")[2]


def test_training(moesim_json):
    data = moesim_json("explain", "mixtral-8x7b-training-h100")
    spans = {row["axis"]: row["span"] for row in data["groups"]}
    assert spans["ep"] == "inside a node"
    assert spans["pp"] == "over 4 nodes, one local rank each (a rail)"
    rows = {(row["axis"], row["collective"]): row for row in data["collectives"]}
    assert rows["ep", "dispatch"]["bytes_per_step"] == rows["ep", "combine"]["bytes_per_step"]  # both in BF16
    assert rows["attention_dp", "gradients"]["bytes_per_step"] > rows["expert_dp", "gradients"]["bytes_per_step"]
    assert not any(row["collective"].startswith("receive") for row in data["collectives"])


@pytest.mark.parametrize(("scenario", "code"), [("nowhere", 2), ("mixtral-8x7b-h100", 0)])
def test_exit_codes(moesim, scenario, code):
    assert moesim("explain", scenario)[0] == code
