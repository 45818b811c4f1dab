"""Guard cost models: run the scenarios, anchors and tables of a baseline and say what moved, and what of it blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import moesim
from moesim.errors import InvalidInput
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.baseline_file import BaselineAnchor, BaselineFile, BaselineRun, BaselineTable
from moesim.study.regression_check.baseline import read_baseline
from moesim.study.results.record import rounded
from moesim.study.scenarios import attempt, figure
from moesim.study.validation.kernels.validate import predict_table, sample_tables, statistics
from moesim.study.validation.tables import read_table

VERDICTS = ("regression", "drift", "ok")  # a regression blocks; a drift is reported
_ERRORS = ("median_ape", "p90_ape", "refused")
_NOISE = 1e-6  # relative; by so much platforms differ
_NOTHING = 1e-12  # of a figure that was 0
_CAUSES = 3  # operations named as the cause of a drift

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One compared figure. verdict: one of `VERDICTS`; message: why it is not ok. part, name, figure: where in the
    baseline. change: relative, of a run's figure; absolute, of an error (which is a share of the measured value)."""

    verdict: str
    part: str
    name: str
    figure: str
    recorded: float | str | None
    found: float | str | None
    change: float | None = None
    tolerance: float | None = None
    message: str = ""

    @property
    def title(self) -> str:
        """What was compared, in one line."""
        return " ".join(word for word in (self.name, self.figure) if word)


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A checked baseline. sources: of each (part, name), the document that it ran. data: the baseline with the values
    found now, which is what an update writes."""

    baseline: Document
    findings: tuple[Finding, ...]
    sources: Mapping[tuple[str, str], Document]
    data: dict

    @property
    def blocks(self) -> bool:
        """Whether anything regressed."""
        return any(finding.verdict == "regression" for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """Findings by verdict."""
        return {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in VERDICTS}

    def table(self) -> pd.DataFrame:
        """One row a compared figure, with the columns of `Finding`."""
        names = list(Finding.__dataclass_fields__)
        return pd.DataFrame([{name: getattr(f, name) for name in names} for f in self.findings], columns=names)

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, na_rep="")


def check(baseline: str | Path | Document, progress: Progress | None = None) -> Check:
    """Run everything that a baseline names, and compare. progress: told (name, done, total) before each part.

    Raises InvalidInput with every problem of the file, a layout of another version and scenarios that do not exist
    among them.
    """
    document = baseline if isinstance(baseline, Document) else read_baseline(baseline)
    file = document.check(BaselineFile)
    sources = _sources(document, file)
    tasks = [(part, name, entry) for part in _COMPARE for name, entry in getattr(file, part).items()]
    data = {**document.data, "moesim_version": moesim.__version__}
    findings = _version(file)
    for number, (part, name, entry) in enumerate(tasks):
        if progress is not None:
            progress(name, number, len(tasks))
        found, values = _COMPARE[part](name, entry, file, sources[part, name])
        findings += found
        data[part] = {**data[part], name: {**data[part][name], **values}}
    if progress is not None:
        progress("", len(tasks), len(tasks))
    return Check(document, tuple(findings), {k: s for k, s in sources.items() if isinstance(s, Document)}, data)


def _sources(document: Document, file: BaselineFile) -> dict[tuple[str, str], Document | pd.DataFrame]:
    """What each entry names: a scenario with its changes, or a table. All that cannot be read comes at once."""
    found, wrong = {}, []
    for part in _COMPARE:
        for name, entry in getattr(file, part).items():
            try:
                found[part, name] = _source(entry, document.file)
            except InvalidInput as error:
                field = (part, name, "table" if part == "tables" else "scenario")
                wrong += [document.problem(field, problem.message) for problem in error.problems]
    if wrong:
        raise InvalidInput(wrong)
    return found


def _source(entry: BaselineRun | BaselineAnchor | BaselineTable, beside: str) -> Document | pd.DataFrame:
    if isinstance(entry, BaselineTable):
        shipped = {path.stem: path for path in sample_tables()}.get(entry.table)
        near = Path(beside).parent / entry.table
        return read_table(shipped or (near if near.exists() else entry.table))
    document = read_scenario(str(library.find("scenario", entry.scenario, beside=beside)))
    for field, value in entry.set.items():
        document = document.with_value(field, value)
    return document


def _version(file: BaselineFile) -> list[Finding]:
    if file.moesim_version == moesim.__version__:
        return []
    told = f"recorded by moesim {file.moesim_version}, this is {moesim.__version__}"
    return [Finding("drift", "", "", "moesim_version", file.moesim_version, moesim.__version__, message=told)]


def _run(name: str, entry: BaselineRun, file: BaselineFile, source: Document) -> tuple[list[Finding], dict]:
    """Compare a scenario's status and figures."""
    now = attempt(source)
    values = {"status": now.status, "metrics": {}}
    if now.status != entry.status:
        worse = entry.status == "ok" or now.status == "failed"
        told = f"was {entry.status}, now {now.status}" + (f": {now.reason}" if now.reason else "")
        verdict = "regression" if worse else "drift"
        found = [Finding(verdict, "runs", name, "status", entry.status, now.status, message=told)]
    else:
        found = [Finding("ok", "runs", name, "status", entry.status, now.status)]
    if now.status != "ok":
        return found, values
    breakdown = now.metrics.get("breakdown_s", {})
    for metric, recorded in entry.metrics.items():
        value = values["metrics"][metric] = figure(now.metrics, metric)
        tolerance = entry.tolerances.get(metric, file.tolerance if entry.tolerance is None else entry.tolerance)
        cause = _cause(entry.breakdown_s, breakdown) if metric.endswith(("time_s", "per_device", "tpot_s")) else ""
        found.append(_moved(name, metric, recorded, value, tolerance, cause))
    if breakdown:
        values["breakdown_s"] = breakdown
    return found, values


def _moved(
    name: str, metric: str, recorded: float | None, value: float | None, tolerance: float, cause: str
) -> Finding:
    both = ("runs", name, metric, recorded, value)
    if recorded is None or value is None:
        if recorded == value:
            return Finding("ok", *both)
        told = "is not in the result any more" if value is None else "has no recorded value"
        return Finding("drift" if recorded is None else "regression", *both, message=f"{told}; --update records it")
    moved = value - recorded
    change = moved / abs(recorded) if recorded else float("inf") if abs(moved) > _NOTHING else 0.0
    if abs(change) <= _NOISE:
        return Finding("ok", *both, change, tolerance)
    over = abs(change) > tolerance
    told = f"{recorded:.6g} → {value:.6g} ({change:+.2%}, tolerance {tolerance:.2%})" + (f"; {cause}" if cause else "")
    return Finding("regression" if over else "drift", *both, change, tolerance, told)


def _cause(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The operations that moved most, in words."""
    from moesim.units import format_seconds

    moved = {kind: after.get(kind, 0.0) - before.get(kind, 0.0) for kind in {*before, *after}} if before else {}
    most = sorted((k for k in moved if moved[k]), key=lambda kind: (-abs(moved[kind]), kind))[:_CAUSES]
    words = [f"{kind} {'+' if moved[kind] > 0 else '−'}{format_seconds(abs(moved[kind]))}" for kind in most]
    return f"by operation: {', '.join(words)}" if words else ""


def _anchor(name: str, entry: BaselineAnchor, file: BaselineFile, source: Document) -> tuple[list[Finding], dict]:
    """Compare how far a scenario's figure is from its measurement."""
    now = attempt(source)
    value = figure(now.metrics, entry.metric) if now.status == "ok" else None
    tolerance = file.anchor_tolerance if entry.tolerance is None else entry.tolerance
    if value is None:
        told = now.reason or f"the result has no figure {entry.metric!r}"
        return [Finding("regression", "anchors", name, entry.metric, entry.error, None, None, tolerance, told)], {}
    error = rounded(abs(value / entry.measured - 1))
    where = f"predicted {value:.6g}, measured {entry.measured:.6g}"
    return [_grown("anchors", name, entry.metric, entry.error, error, tolerance, where)], {"error": error}


def _table(name: str, entry: BaselineTable, file: BaselineFile, source: pd.DataFrame) -> tuple[list[Finding], dict]:
    """Compare the errors over a table of measured kernels."""
    overall = statistics(predict_table(source, load_profile), by=()).iloc[-1]
    errors = {error: rounded(float(overall[error])) for error in _ERRORS if error in overall}
    tolerance = file.anchor_tolerance if entry.tolerance is None else entry.tolerance
    found = [
        _grown("tables", name, error, entry.errors.get(error), value, 0.0 if error == "refused" else tolerance, "")
        for error, value in errors.items()
    ]
    return found, {"errors": errors}


def _grown(
    part: str, name: str, figure: str, recorded: float | None, error: float, tolerance: float, where: str
) -> Finding:
    both = (part, name, figure, recorded, error)
    if recorded is None:
        return Finding("drift", *both, None, tolerance, "; ".join(filter(None, ("has no recorded error", where))))
    change = error - recorded
    if abs(change) <= _NOISE:
        return Finding("ok", *both, change, tolerance)
    words = f"rows refused {recorded:.0f} → {error:.0f}"
    if figure != "refused":
        words = f"error {recorded:.2%} → {error:.2%} ({change * 100:+.2f} points, may grow by {tolerance:.2%})"
    verdict = "regression" if change > tolerance else "drift"
    return Finding(verdict, *both, change, tolerance, "; ".join(filter(None, (words, where))))


_COMPARE: dict[str, Callable[..., tuple[list[Finding], dict]]] = {"runs": _run, "anchors": _anchor, "tables": _table}


def regressions(findings: Iterable[Finding]) -> list[Finding]:
    """Those that block."""
    return [finding for finding in findings if finding.verdict == "regression"]
