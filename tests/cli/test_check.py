"""``moesim check`` as CI runs it."""

import json
from xml.etree import ElementTree

import pytest

SCENARIO = "mixtral-8x7b-h100"


@pytest.fixture
def baseline(moesim, tmp_path, monkeypatch):
    """./baseline.yaml over one scenario."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_BASE_REF", raising=False)
    code, out, err = moesim("check", "--add", SCENARIO)
    assert (code, out, err) == (0, "", "wrote baseline.yaml\n")
    return tmp_path / "baseline.yaml"


@pytest.fixture
def drifted(baseline):
    text = baseline.read_text()
    at = text.index("step_time_s: ") + len("step_time_s: ")
    baseline.write_text(text[:at] + "1" + text[at:])
    return baseline


def test_as_recorded(moesim, baseline):
    code, out, _ = moesim("check")
    assert code == 0
    assert out == "6 figures compared with baseline.yaml: 6 as recorded, 0 drifted, 0 regressed\n"


def test_a_regression_exits_1_and_names_the_line(moesim, drifted):
    line = next(number for number, text in enumerate(drifted.read_text().splitlines(), 1) if "step_time_s" in text)
    code, out, _ = moesim("check", drifted)
    assert code == 1
    assert out.startswith(f"baseline.yaml:{line}: REGRESSION: {SCENARIO} step_time_s: ")
    code, out, _ = moesim("check", drifted, "--format", "github")
    assert code == 1
    first = out.splitlines()[0]
    assert first.startswith(f"::error file=baseline.yaml,line={line},title=moesim check%3A {SCENARIO} step_time_s::")
    assert "%25" in first


def test_several_formats_at_once(moesim, drifted, tmp_path):
    forms = ("--format", "json", "--format", "junit=r/junit.xml", "--format", "markdown=summary.md")
    code, out, err = moesim("check", *forms)
    assert code == 1
    found = json.loads(out)
    assert (found["passed"], found["counts"]) == (False, {"regression": 1, "drift": 0, "ok": 5})
    assert "wrote r/junit.xml" in err
    root = ElementTree.parse(tmp_path / "r" / "junit.xml").getroot()
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in root] == [("runs", "6", "1")]
    (failure,) = root.iter("failure")
    assert "tolerance 2.00%" in failure.get("message")
    summary = (tmp_path / "summary.md").read_text()
    assert "### moesim check: failed" in summary
    assert f"| REGRESSION | {SCENARIO} step_time_s |" in summary
    assert moesim("check", "--json")[1] == out


def test_an_update_makes_it_pass(moesim, drifted):
    assert moesim("check", "--update")[0] == 0
    assert moesim("check")[0] == 0


def test_a_baseline_that_cannot_be_used(moesim, baseline):
    text = baseline.read_text()
    baseline.write_text(text.replace("schema_version: 1", "schema_version: 2"))
    code, out, err = moesim("check", "--update")
    assert (code, out) == (2, "")
    assert "baseline.yaml:2:17: schema_version: this baseline has layout 2" in err
    assert "make it anew: moesim check baseline.yaml --add" in err
    code, _, err = moesim("check", "nowhere.yaml")
    assert code == 2
    assert "moesim check nowhere.yaml --add SCENARIO" in err
    assert "did you mean 'mixtral-8x7b-h100'" in moesim("check", "new.yaml", "--add", "mixtral-8x7b-h10")[2]
    assert "did you mean 'junit'" in moesim("check", "--format", "junt")[2]
    assert "only one format" in moesim("check", "--format", "text", "--json")[2]


def test_an_update_that_fails_changes_nothing(moesim, baseline, monkeypatch):
    before = baseline.read_text()

    def fault(document, changes=()):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("moesim.study.scenarios.run_document", fault)
    code, _, err = moesim("check", "--update")
    assert code == 2
    assert "ZeroDivisionError: a fault; the baseline was left as it was" in err
    assert baseline.read_text() == before
