"""``moesim sweep`` as a user types it."""

import json

SCENARIO = "mixtral-8x7b-h100"
GRID = ("--over", "workload.context=512,1024", "--over", "workload.sequences_per_rank=32,64", "--jobs", 1)


def test_a_table_a_picture_and_the_same_bytes(moesim, tmp_path):
    code, out, err = moesim("sweep", SCENARIO, *GRID, "--out", tmp_path)
    assert code == 0
    assert "4 runs: 4 ok" in out
    assert out.splitlines()[0].split()[:3] == ["workload.context", "workload.sequences_per_rank", "status"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {tmp_path / 'results.parquet'}" in err
    first = moesim("sweep", SCENARIO, *GRID, "--out", tmp_path, "--json")[1]
    found = json.loads(first)
    part = moesim(
        "sweep", SCENARIO, *GRID, "--over", "seed=7", "--out", tmp_path / "other", "--json", "--shard", "1/4"
    )[1]
    assert json.loads(part)["runs"][0] == found["runs"][0]  # the file's own seed: the same run, computed anew
    assert found["counts"] == {"ok": 4, "infeasible": 0, "invalid": 0, "failed": 0, "missing": 0}
    assert [run["workload.context"] for run in found["runs"]] == [512, 512, 1024, 1024]


def test_an_unknown_field_is_told_before_anything_runs(moesim, tmp_path):
    code, out, err = moesim("sweep", SCENARIO, "--over", "workload.contxt=1,2", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == "--over: workload.contxt: unknown key; did you mean 'context'?\n"
    assert not (tmp_path / "out").exists()


def test_combinations_that_cannot_run_are_rows(moesim, tmp_path):
    tight = ("--over", "workload.sequences_per_rank=64,1000000", "--over", "parallelism.ep=8,4", "--jobs", 1)
    code, out, _ = moesim("sweep", SCENARIO, *tight, "--out", tmp_path)
    assert code == 0
    assert "4 runs: 1 ok, 1 infeasible, 2 invalid" in out
    assert "bytes too many" in out
    code, _, err = moesim(
        "sweep", SCENARIO, "--over", "workload.sequences_per_rank=1000000", "--out", tmp_path, "--jobs", 1
    )
    assert code == 3
    assert "none of the runs worked" in err


def test_options_that_cannot_be(moesim, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = moesim("sweep", SCENARIO, *GRID, "--out", tmp_path / "file")
    assert code == 2
    assert "is a file" in err
    assert "write I/N" in moesim("sweep", SCENARIO, *GRID, "--shard", "3")[2]
    assert "from 1 on" in moesim("sweep", SCENARIO, *GRID[:-1], 0, "--out", tmp_path / "out")[2]
    said = moesim(
        "sweep", SCENARIO, "--over", "seed=1", "--jobs", 1, "--out", tmp_path / "o", "--metric", "step_tim_s"
    )[2]
    assert "did you mean 'step_time_s'" in said
