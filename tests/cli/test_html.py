"""``--html`` as a user types it."""

import pytest

pytest.importorskip("plotly", reason="reports need plotly: pip install '.[report]'")

SMALL = (
    "placement-mixtral-h100", "--set", "cluster.devices=4", "--set", "parallelism={attention_dp: 4, ep: 4}",
    "--set", "workload.sequences_per_rank=8", "--set", "placement={kind: contiguous, slots_per_rank: 2}",
)  # fmt: skip


def test_a_run_writes_a_page_and_markdown_that_shows_the_pictures(moesim, tmp_path):
    code, out, err = moesim("run", *SMALL, "--html", tmp_path / "run.html", "--out", tmp_path / "pictures")
    assert code == 0, err
    assert f"wrote {tmp_path / 'run.html'}" in err
    assert "wrote" not in out
    assert "![breakdown](pictures/breakdown.png)" in (tmp_path / "run.md").read_text()
    first = (tmp_path / "run.html").read_bytes()
    moesim("run", *SMALL, "--html", tmp_path / "run.html")
    assert (tmp_path / "run.html").read_bytes() == first


def test_every_command_with_a_report_takes_the_same_option(moesim):
    for command in ("run", "compare", "place", "plan", "serve"):
        assert "--html FILE.html" in moesim(command, "--help")[1].replace("  ", " ")


@pytest.mark.parametrize(("name", "told"), [("a.txt", "name a file that ends in .html"), ("", "ends in .html")])
def test_a_wrong_name_is_refused_before_the_work(moesim, tmp_path, name, told):
    code, out, err = moesim("run", "quickstart", "--html", tmp_path / name)
    assert (code, out) == (2, "")
    assert told in err


def test_a_training_plan_is_not_searched_product_by_product(moesim):
    code, out, err = moesim("plan", "train-deepseek-v3", "--train", "--each")
    assert (code, out) == (2, "")
    assert "--each is of plans for serving" in err


def test_without_plotly_it_is_told_what_to_install(moesim, monkeypatch, tmp_path):
    monkeypatch.setattr("moesim.cli.output.find_spec", lambda name: None)
    code, out, err = moesim("run", "quickstart", "--html", tmp_path / "run.html")
    assert (code, out) == (2, "")
    assert "pip install 'moesim[report]'" in err
