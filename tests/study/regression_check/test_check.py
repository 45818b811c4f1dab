"""Baselines: what blocks, what is reported, and what an update writes. The last test guards moesim's own models."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from moesim.errors import InvalidInput
from moesim.report.check_formats import as_text
from moesim.spec.reading import library
from moesim.spec.reading.loading import parse
from moesim.spec.studies.baseline_file import BaselineFile
from moesim.spec.studies.sweep_file import SweepFile
from moesim.study.regression_check import check as checking
from moesim.study.regression_check.baseline import add, new_baseline, read_baseline, shipped_baseline, write_baseline
from moesim.study.regression_check.changed_lines import places
from moesim.study.regression_check.check import check, regressions
from moesim.study.results.record import scenario_hash
from moesim.study.scenarios import attempt
from moesim.study.validation.kernels.validate import sample_tables

ROOT = Path(__file__).parents[3]
SCENARIO = "mixtral-8x7b-h100"
ANCHOR = {"scenario": SCENARIO, "metric": "step_time_s", "measured": 0.016, "source": "a stopwatch"}


@pytest.fixture(scope="module")
def results():
    """What came of each scenario that was run, for the tests that look at comparisons only."""
    return {}


@pytest.fixture
def recorded(tmp_path, results, monkeypatch):
    """Record a baseline, change its data by hand, and check: ``found = recorded(lambda data: …)``."""
    path = tmp_path / "baseline.yaml"

    def once(document):
        key = scenario_hash(document)
        if key not in results:
            results[key] = attempt(document)
        return results[key]

    monkeypatch.setattr(checking, "attempt", once)

    def run(change=lambda data: None, **parts):
        document = add(new_baseline(path), [SCENARIO])
        for part, entries in parts.items():
            document = document.with_value(part, entries | document.data.get(part, {}))
        write_baseline(check(document).data, path)
        data = yaml.safe_load(path.read_text())
        change(data)
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return check(path)

    return run


def of(result, figure):
    return next(finding for finding in result.findings if finding.figure == figure)


def scale(figure, factor):
    def change(data):
        data["runs"][SCENARIO]["metrics"][figure] *= factor

    return change


def test_nothing_moved(recorded):
    result = recorded()
    assert {finding.verdict for finding in result.findings} == {"ok"}
    assert len(result.findings) == 6  # the status and five figures
    assert not result.blocks


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.01, "drift"), (0.99, "drift"), (1.03, "regression"), (0.97, "regression")]
)
def test_a_drift_beyond_its_tolerance_blocks(recorded, factor, verdict):
    result = recorded(scale("step_time_s", factor))
    assert of(result, "step_time_s").verdict == verdict
    assert of(result, "step_time_s").change == pytest.approx(1 / factor - 1)
    assert result.blocks == (verdict == "regression")
    assert of(result, "hbm_bytes").verdict == "ok"


def test_tolerances_of_a_figure_a_run_and_the_file(recorded):
    def wider(data):
        scale("step_time_s", 1.08)(data)
        scale("hbm_bytes", 1.04)(data)
        scale("waiting_s", 1.03)(data)
        data["tolerance"] = "1 %"
        data["runs"][SCENARIO] |= {"tolerance": "5 %", "tolerances": {"step_time_s": "10 %", "waiting_s": "2.5 %"}}

    assert [finding.figure for finding in regressions(recorded(wider).findings)] == ["waiting_s"]


def test_a_drift_says_which_operations_moved(recorded):
    def change(data):
        scale("step_time_s", 1.1)(data)
        data["runs"][SCENARIO]["breakdown_s"]["experts"] += 0.0012

    assert "by operation: experts −1.2 ms" in of(recorded(change), "step_time_s").message


def test_a_run_that_worked_and_now_fails_blocks(recorded):
    def change(data):
        data["runs"][SCENARIO]["set"] = {"workload.sequences_per_rank": 100_000}

    result = recorded(change)
    assert [finding.figure for finding in regressions(result.findings)] == ["status"]
    assert "was ok, now infeasible: does not fit" in of(result, "status").message


def test_a_fault_blocks_and_names_it(recorded, tmp_path, monkeypatch):
    def fault(document, changes=()):
        raise ZeroDivisionError("a fault")

    recorded()
    monkeypatch.setattr(checking, "attempt", attempt)
    monkeypatch.setattr("moesim.study.scenarios.run_document", fault)
    result = check(tmp_path / "baseline.yaml")
    assert result.blocks
    assert of(result, "status").message == "was ok, now failed: ZeroDivisionError: a fault"


def test_a_run_that_failed_and_now_works_is_reported(recorded):
    def change(data):
        data["runs"][SCENARIO] |= {"status": "infeasible", "metrics": {}}

    result = recorded(change)
    assert of(result, "status").verdict == "drift"
    assert not result.blocks


def test_a_figure_without_a_value_and_one_that_is_gone(recorded):
    def change(data):
        data["runs"][SCENARIO]["metrics"] |= {"tpot_s": None, "nowhere.to_be_found": 1.0}

    result = recorded(change)
    assert of(result, "tpot_s").verdict == "drift"
    assert of(result, "nowhere.to_be_found").verdict == "regression"


@pytest.mark.parametrize(("worse", "verdict"), [(-0.02, "regression"), (-0.005, "drift"), (0.02, "drift")])
def test_an_anchor_whose_error_grows_blocks(recorded, worse, verdict):
    def change(data):
        data["anchors"]["step"]["error"] += worse

    result = recorded(change, anchors={"step": ANCHOR})
    finding = next(finding for finding in result.findings if finding.part == "anchors")
    assert finding.verdict == verdict
    assert finding.found == pytest.approx(abs(0.0148235 / 0.016 - 1), rel=1e-2)
    assert "measured 0.016" in finding.message


def test_a_table_whose_errors_grow_blocks(recorded, tmp_path):
    sample = next(path for path in sample_tables() if path.stem == "collective")
    table = pd.read_parquet(sample)
    table[table["hardware"] == "h100"].head(40).to_csv(tmp_path / "mine.csv", index=False)

    def change(data):
        data["tables"]["mine"]["errors"] |= {"median_ape": 0.0, "refused": -1.0}

    result = recorded(change, tables={"mine": {"table": "mine.csv"}})
    assert [finding.figure for finding in regressions(result.findings)] == ["median_ape", "refused"]
    assert of(result, "p90_ape").verdict == "ok"


def test_another_version_is_reported_and_another_layout_refused(recorded, tmp_path):
    result = recorded(lambda data: data.update(moesim_version="0.0.1"))
    assert of(result, "moesim_version").verdict == "drift"
    assert not result.blocks
    path = tmp_path / "baseline.yaml"
    path.write_text(path.read_text().replace("schema_version: 1", "schema_version: 0"))
    with pytest.raises(InvalidInput) as caught:
        check(path)
    assert str(caught.value).startswith(f"{path}:1:17: schema_version: this baseline has layout 0, moesim")
    assert f"moesim check {path} --add {SCENARIO}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scenario: mixtral-8x7b-h100", "scenario: mixtral-8x7b-h10", "did you mean 'mixtral-8x7b-h100'"),
        ("tolerance: 2 %", "tolerance: 2", "cannot read 2; write percent, e.g. '2 %'"),
        ("tolerance: 2 %", "tolerence: 2 %", "did you mean 'tolerance'"),
        ("step_time_s: 0.0", "step_time_s: fast 0.0", "write a number"),
        ("schema_version: 1\n", "", "schema_version: missing"),
    ],
)
def test_mistakes_in_a_baseline_have_their_line(recorded, tmp_path, old, new, said):
    recorded()
    path = tmp_path / "baseline.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InvalidInput) as caught:
        check(path)
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)


def test_an_update_keeps_what_the_user_wrote(recorded, tmp_path):
    def change(data):
        scale("step_time_s", 2)(data)
        data["runs"][SCENARIO] |= {"note": "mine", "tolerances": {"step_time_s": "3 %"}}

    result = recorded(change, anchors={"step": ANCHOR})
    path = tmp_path / "baseline.yaml"
    write_baseline(result.data, path)
    again = check(path)
    assert {finding.verdict for finding in again.findings} == {"ok"}
    run = read_baseline(path).data["runs"][SCENARIO]
    assert (run["note"], run["tolerances"]) == ("mine", {"step_time_s": "3 %"})
    assert path.read_text() == (write_baseline(again.data, path), path.read_text())[1]
    json_file = tmp_path / "baseline.json"
    write_baseline(again.data, json_file)
    assert not check(json_file).blocks


def test_a_finding_stands_at_the_line_that_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = library.find("hardware", "h100").read_text()
    (tmp_path / "mine.yaml").write_text(profile)
    scenario = library.find("scenario", SCENARIO).read_text().replace("hardware: h100", "hardware: mine.yaml")
    (tmp_path / "a.yaml").write_text(scenario)
    write_baseline(check(add(new_baseline("baseline.yaml"), ["a.yaml"])).data, "baseline.yaml")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True, cwd=tmp_path)
    line = next(n for n, text in enumerate(profile.splitlines(), 1) if "bandwidth: 3.35 TB/s" in text)
    (tmp_path / "mine.yaml").write_text(profile.replace("bandwidth: 3.35 TB/s", "bandwidth: 2.0 TB/s"))
    result = check("baseline.yaml")
    assert result.blocks
    found = places(result)
    assert set(found.values()) == {("mine.yaml", line)}
    assert f"mine.yaml:{line}: REGRESSION: a step_time_s" in as_text(result, found)
    subprocess.run([*git, "commit", "-qam", "second"], check=True, cwd=tmp_path)
    number = next(
        n for n, t in enumerate((tmp_path / "baseline.yaml").read_text().splitlines(), 1) if "step_time_s" in t
    )
    assert places(result)[regressions(result.findings)[0]] == ("baseline.yaml", number)


def test_a_check_is_a_table(recorded):
    result = recorded()
    assert result.table()["verdict"].tolist() == ["ok"] * 6
    assert result._repr_html_().startswith("<table")


@pytest.mark.parametrize(
    ("page", "begins", "schema"), [("ci", "schema_version", BaselineFile), ("sweeps", "# yaml-language", SweepFile)]
)
def test_the_files_of_the_pages_can_be_read(page, begins, schema):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.S) if block.startswith(begins))
    assert parse(block).check(schema)


def test_the_hook_runs_a_command_that_there_is():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert (hook["id"], hook["entry"], hook["pass_filenames"]) == ("moesim-check", "moesim check", False)
    assert re.search(hook["files"], "profiles/mine.yaml")


def test_moesim_predicts_what_its_baseline_records():
    """After an intended change: `make baseline`, and look at what moved before committing it."""
    result = check(shipped_baseline())
    assert len(result.findings) >= 80
    assert not result.blocks, as_text(result, places(result))
