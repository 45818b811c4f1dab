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


@pytest.mark.parametrize(("scenario", "code"), [("nowhere", 2), ("mixtral-8x7b-h100", 0)])
def test_exit_codes(moesim, scenario, code):
    assert moesim("explain", scenario)[0] == code
