"""``moesim resilience`` as a user types it."""

import json

SHIPPED = "resilience-2048-gpus"


def test_the_command_prints_and_draws(moesim, tmp_path):
    code, out, err = moesim("resilience", SHIPPED, "--set", "seeds=3", "--out", tmp_path / "out")
    assert code == 0, err
    assert "goodput" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"spent.png", "goodput.png", "run.png"}


def test_the_same_file_prints_the_same_bytes(moesim):
    first, again = (moesim("resilience", SHIPPED, "--set", "seeds=2", "--json") for _ in range(2))
    assert first == again
    assert json.loads(first[1])["complete"] is True
