"""``moesim compare`` as a user types it."""

import json

SCENARIO = "mixtral-8x7b-h100"
CHANGE = ("--set", "workload.context=4096")


def test_text_picture_and_tables(moesim, tmp_path):
    code, out, err = moesim("compare", SCENARIO, *CHANGE, "--each", "--out", tmp_path)
    assert code == 0
    assert "workload.context  2048  4096" in out
    assert "operation (mean over ranks)" in out
    assert "A with only this of B" in out
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (
        (tmp_path / "operations.csv").read_text().startswith("operation,a_s,b_s,change_s,waiting_change_s\nattention,")
    )
    assert err.count("wrote") == len(list(tmp_path.iterdir()))


def test_the_same_bytes_each_time(moesim):
    first = moesim("compare", SCENARIO, *CHANGE, "--json")
    assert first == moesim("compare", SCENARIO, *CHANGE, "--json")
    assert json.loads(first[1])["fields"] == [{"field": "workload.context", "a": "2048", "b": "4096"}]


def test_two_files(moesim):
    code, out, _ = moesim("compare", "routers-h100", "routers-gb200")
    assert code == 0
    assert out.startswith("A: routers-h100: OLMoE")
    assert "cluster.hardware" in out


def test_mistakes(moesim):
    code, out, err = moesim("compare", SCENARIO, "serving-deepseek-v3-b200")
    assert (code, out) == (2, "")
    assert "compare two of one kind" in err
    assert "did you mean" in moesim("compare", SCENARIO, "--set", "workload.contxt=1")[2]
    assert "are the same" in moesim("compare", SCENARIO)[2]
