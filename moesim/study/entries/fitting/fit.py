"""Fit the calibration of stacks to published figures, and judge it on models, hardware and sources that it never saw.

Every figure wants some factor on the simulated time; `moesim.study.entries.fitting.hierarchy` explains those of all
figures of one kind of run (training, load, decode, prefill) together. What comes out is a set of factors for every
stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import yaml

from moesim.study.entries.calibration.factors import TRAINING, Calibration, Factors, run_and_format
from moesim.study.entries.fitting.hierarchy import AGEING, EXPERT, HOST, SCAN, Row, Spreads, Terms, fit_terms
from moesim.study.entries.prediction.predict import Prediction
from moesim.study.entries.prediction.quantities import grows_with_time, read
from moesim.study.entries.reading.case import Case
from moesim.study.entries.runs.outcome import Outcome

FOLDS = ("entry", "model", "hardware", "source")
FEWEST = 10  # figures whose errors tell an interval; stacks with fewer have that of all that do the same kind of run
PARTS = 10  # of the figures, left out in turn to see how well unseen figures of known stacks are predicted
# Found by errors on whole models, hardware and sources left out (docs/measured-tables.md). Runs of few figures hardly
# tell one stack from another: 18 decode, 12 compute prompts.
_FEW = Spreads(all=0.2, stack=0.05, constants=0.3, own=0.1)
SPREADS: Mapping[str, Spreads] = {
    TRAINING: Spreads(all=0.4, stack=0.1, format=0.1, constants=1.0, own=0.1),
    "decode": _FEW,
    "prefill": _FEW,
}


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One published figure beside its simulation. wanted: the factor on the simulated time that would hit the value."""

    stack: str
    model: str
    hardware: str
    source: str
    outcome: Outcome
    age: float | None
    wanted: float
    id: str = ""

    @property
    def run(self) -> str:
        """The kind of run: training, or the second word of the stack."""
        return run_and_format(self.stack)[0]


def figures(predictions: Sequence[Prediction], values: Sequence[float], sources: Sequence[str]) -> list[Figure]:
    """The figures that a calibration may learn from: those with a value, without speed-ups and waiting times."""
    found = []
    for prediction, value, source in zip(predictions, values, sources, strict=True):
        case, outcome = prediction.case, prediction.outcome
        if case is None or outcome is None or not np.isfinite(value) or value <= 0:
            continue
        if case.quantity.what in ("speedup", "ttft"):
            continue
        found.append(_figure(case, outcome, value, source))
    return found


def _figure(case: Case, outcome: Outcome, value: float, source: str) -> Figure:
    plain = read(case, outcome, 1.0)
    wanted = value / plain if grows_with_time(case) else plain / value
    hardware, model = str(case.document["cluster"]["hardware"]), str(case.document["model"])
    # A source without the version that was read: of a file in a repository, the file.
    return Figure(case.stack, model, hardware, source.partition(" @")[0].strip(), outcome, case.age, wanted, case.id)


def fit_calibration(found: Sequence[Figure]) -> tuple[Calibration, dict[str, dict[str, dict[str, float]]]]:
    """(calibration, errors by stack and fold): fits all figures, and again without each part of them (``entry``), each
    model, hardware and source. ``any RUN`` and ``any FORMAT`` sum up and stand in for stacks that no figure has;
    ``all`` has the errors of every figure."""
    whole = _fit_all(found)
    held = {by: held_out(found, by) for by in FOLDS}
    inside = np.array([_error(figure, whole) for figure in found])

    def told(rows: list[int]) -> dict[str, dict[str, float]]:
        return {"in sample": summary(inside[rows])} | {f"unseen {by}": summary(held[by][rows]) for by in FOLDS}

    stacks, errors = {}, {"all": told(list(range(len(found))))}
    for name, fitted in whole.stacks.items():
        rows = [row for row, figure in enumerate(found) if _belongs(figure, name)]
        if rows:
            run = f"any {found[rows[0]].run}"
            enough = rows if len(rows) >= FEWEST else [row for row, f in enumerate(found) if _belongs(f, run)]
            both = np.concatenate([held["model"][enough], held["hardware"][enough]])
            fitted = replace(fitted, interval=interval(both), entries=len(rows))
            errors[name] = told(rows)
        stacks[name] = fitted
    return Calibration(stacks), errors


def held_out(found: Sequence[Figure], by: str, spreads: Mapping[str, Spreads] = SPREADS) -> np.ndarray:
    """Log errors [figure] of the predicted time by fits that had not seen the figure's model, hardware or source; by
    ``entry``: that had not seen one of `PARTS` parts, among which figures are dealt by their numbers."""
    labels = np.array([getattr(figure, by) for figure in found]) if by != "entry" else np.arange(len(found)) % PARTS
    errors = np.zeros(len(found))
    for label in np.unique(labels):
        fitted = _fit_all([f for f, own in zip(found, labels, strict=True) if own != label], spreads)
        for row in np.flatnonzero(labels == label):
            errors[row] = _error(found[row], fitted)
    return errors


def _belongs(figure: Figure, name: str) -> bool:
    stack, _, kind = name.partition(" ")
    return figure.stack == name or (stack == "any" and kind in (figure.run, figure.stack.partition(" ")[2]))


def _error(figure: Figure, fitted: Calibration) -> float:
    factors = fitted.of(figure.stack)
    return float(np.log(factors.scale(figure.outcome, figure.age) / figure.wanted))


def _fit_all(found: Sequence[Figure], spreads: Mapping[str, Spreads] = SPREADS) -> Calibration:
    stacks: dict[str, Factors] = {}
    for run in sorted({figure.run for figure in found}):
        rows = [_row(figure) for figure in found if figure.run == run]
        terms = fit_terms(rows, spreads.get(run, Spreads()))
        forms = sorted({row.format for row in rows})
        for stack in ("any", *sorted({row.stack for row in rows})):
            for form in forms:
                stacks[f"{stack} {form or run}"] = _factors(terms, stack, form)
            if run == TRAINING:
                stacks.setdefault(f"{stack} {run}", _factors(terms, stack, ""))
    return Calibration(stacks)


def _row(figure: Figure) -> Row:
    stack, form = figure.stack.partition(" ")[0], run_and_format(figure.stack)[1]
    return Row(stack, form, figure.outcome, figure.age or 0.0, figure.wanted)


def _factors(terms: Terms, stack: str, form: str) -> Factors:
    factors = {kind: round(terms.factor(kind, stack, form), 4) for kind in terms.kinds}
    host, expert, scan, ageing = (terms.constant(name, stack) for name in (HOST, EXPERT, SCAN, AGEING))
    constants = (round(host, 7), round(scan, 4), round(ageing, 4))
    return Factors(factors, *constants, expert_s=round(expert, 8))


def summary(errors: np.ndarray) -> dict[str, float]:
    """Median and P90 of the absolute relative error of a rate, from log errors of times."""
    size = np.abs(np.exp(-errors) - 1)
    return {"median": float(np.median(size)), "p90": float(np.quantile(size, 0.9))}


def interval(errors: np.ndarray) -> tuple[float, float]:
    """Factors on a predicted time that hold 80 % of the published ones."""
    low, high = np.quantile(np.exp(-errors), [0.1, 0.9])
    return float(round(min(low, 0.97), 4)), float(round(max(high, 1.03), 4))


def _rounded(errors: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {by: {name: round(value, 3) for name, value in found.items()} for by, found in errors.items()}


def calibration_text(calibration: Calibration, errors: dict, *, source: str, date: str) -> str:
    """The file of a calibration."""
    head = (
        "# Calibration of stacks to published figures, written by benchmarks/published_report.py --fit; meanings:\n"
        "# moesim/study/entries/calibration/factors.py. errors: of rates, by what a fit had not seen; fractions.\n"
    )
    stacks = {}
    for name, kept in sorted(calibration.stacks.items()):
        stacks[name] = {
            "entries": kept.entries,
            "factors": dict(kept.factors),
            "host_s": kept.host_s,
            "expert_s": kept.expert_s,
            "scan_s": kept.scan_s,
            "ageing": kept.ageing,
            "interval": list(kept.interval),
        }
        if name in errors:
            stacks[name]["errors"] = _rounded(errors[name])
    data = {"source": source, "date": date, "errors": _rounded(errors["all"]), "stacks": stacks}
    return head + yaml.safe_dump(data, sort_keys=False, width=118)
