"""A checked baseline as text: for people, programs, GitHub and test reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

import moesim
from moesim.study.regression_check.check import VERDICTS, Check, Finding
from moesim.study.results.record import rounded

Places = Mapping[Finding, tuple[str, int]]
_LEVELS = {"regression": "error", "drift": "warning"}  # of GitHub's annotations
_MARKS = {"regression": "REGRESSION", "drift": "drift"}


def as_text(result: Check, places: Places) -> str:
    """What is not as recorded, one line each, and a count."""
    lines = [_line(finding, places[finding]) for finding in _told(result)]
    return "\n".join([*lines, _summary(result)])


def as_json(result: Check, places: Places) -> str:
    """One object with every compared figure."""
    findings = [
        {
            name: getattr(finding, name)
            for name in ("verdict", "part", "name", "figure", "recorded", "found", "change", "tolerance", "message")
        }
        | ({"file": places[finding][0], "line": places[finding][1]} if finding in places else {})
        for finding in result.findings
    ]
    whole = {
        "schema_version": 1,
        "moesim_version": moesim.__version__,
        "baseline": str(result.baseline.file),
        "passed": not result.blocks,
        "counts": result.counts(),
        "findings": rounded(findings),
    }
    return json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False)


def as_markdown(result: Check, places: Places) -> str:
    """A summary for a pull request: what blocks, what drifted."""
    lines = [f"### moesim check: {'failed' if result.blocks else 'passed'}", "", _summary(result)]
    told = _told(result)
    if told:
        lines += ["", "| | what | recorded | now | change | allowed | where |", "|---|---|--:|--:|--:|--:|---|"]
    for finding in told:
        file, line = places[finding]
        lines.append(
            f"| {_MARKS[finding.verdict]} | {_cell(finding.title)} | {_number(finding.recorded)} | "
            f"{_number(finding.found)} | {_percent(finding.change, '+')} | {_percent(finding.tolerance, '')} | "
            f"{_cell(f'{file}:{line}')} |"
        )
    causes = [f"- {_cell(finding.title)}: {_cell(finding.message)}" for finding in told if finding.message]
    return "\n".join([*lines, "", *causes] if causes else lines)


def as_github(result: Check, places: Places) -> str:
    """Workflow commands that GitHub shows at the line: errors for what blocks, warnings for what drifted."""
    lines = []
    for finding in _told(result):
        file, line = places[finding]
        where = f"file={_property(file)},line={line},title={_property('moesim check: ' + finding.title)}"
        lines.append(f"::{_LEVELS[finding.verdict]} {where}::{_data(finding.message)}")
    return "\n".join([*lines, _summary(result)])


def as_junit(result: Check, places: Places) -> str:
    """JUnit XML: a test case a figure; what blocks is a failure, what drifted is said in its output."""
    root = ElementTree.Element("testsuites", name="moesim check")
    suites: dict[str, ElementTree.Element] = {}
    for finding in result.findings:
        part = finding.part or "baseline"
        suite = suites.get(part)
        if suite is None:
            suite = suites[part] = ElementTree.SubElement(root, "testsuite", name=part, tests="0", failures="0")
        failed = finding.verdict == "regression"
        suite.set("tests", str(int(suite.get("tests")) + 1))
        suite.set("failures", str(int(suite.get("failures")) + failed))
        case = ElementTree.SubElement(suite, "testcase", classname=f"{part}.{finding.name}", name=finding.figure)
        if finding in places:
            file, line = places[finding]
            case.set("file", file)
            case.set("line", str(line))
        if failed:
            ElementTree.SubElement(case, "failure", message=finding.message, type="regression")
        elif finding.verdict == "drift":
            ElementTree.SubElement(case, "system-out").text = f"drift: {finding.message}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


FORMATS: dict[str, Callable[[Check, Places], str]] = {
    "text": as_text,
    "json": as_json,
    "markdown": as_markdown,
    "github": as_github,
    "junit": as_junit,
}


def _told(result: Check) -> list[Finding]:
    return sorted((f for f in result.findings if f.verdict != "ok"), key=lambda f: VERDICTS.index(f.verdict))


def _line(finding: Finding, place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}: {_MARKS[finding.verdict]}: {finding.title}: {finding.message}"


def _summary(result: Check) -> str:
    counts = result.counts()
    figures = f"{sum(counts.values())} figures compared with {result.baseline.file}"
    return f"{figures}: {counts['ok']} as recorded, {counts['drift']} drifted, {counts['regression']} regressed"


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    return _cell(value) if isinstance(value, str) else f"{value:.5g}"


def _percent(value: float | None, sign: str) -> str:
    return "" if value is None else f"{value:{sign}.2%}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _data(text: str) -> str:
    """Escapes of the text of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
