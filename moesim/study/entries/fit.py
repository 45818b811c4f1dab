"""Fit the calibration of stacks to published figures, and judge it on models, hardware and sources that it never saw.

Every figure wants some factor on the simulated time. A stack's factors on kinds of work, its host time a layer and its
ageing explain those of all its figures by robust least squares of logs. Each group is drawn towards the fit of all
stacks that do the same kind of run, which in turn is drawn towards the plain simulation: few figures move little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import yaml

from moesim.study.entries.calibration import Calibration, Factors
from moesim.study.entries.case import Case
from moesim.study.entries.outcome import Outcome
from moesim.study.entries.predict import Prediction
from moesim.study.entries.reading import grows_with_time, read

LOSS_SCALE = 0.12  # of log errors; beyond it a figure counts linearly
SPREAD = {
    "factors": 0.4,
    "host_ms": 1.0,
    "scan_s": 2.0,
    "ageing": 0.3,
}  # of what parameters may differ from what they are drawn to
POOLED = 0.5  # a group's spread, relative to that of the fit of all
FOLDS = ("model", "hardware", "source")
FEWEST = 3  # figures of a group that gets factors of its own
_HOST_UNIT = 1e-3


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
    return Figure(case.stack, model, hardware, source, outcome, case.age, wanted)


def fit_calibration(found: Sequence[Figure]) -> tuple[Calibration, dict[str, dict[str, dict[str, float]]]]:
    """(calibration, errors by stack and fold): fits all figures, and again without each model, hardware and source."""
    factors = _fit_all(found)
    held = {by: held_out(found, by) for by in FOLDS}
    stacks, errors = {}, {}
    for name, fitted in factors.items():
        rows = [row for row, figure in enumerate(found) if _belongs(figure, name)]
        inside = np.array([_error(found[row], fitted) for row in rows])
        unseen = {by: held[by][rows] for by in FOLDS}
        both = np.concatenate([unseen["model"], unseen["hardware"]])
        stacks[name] = replace(fitted, interval=interval(both), entries=len(rows))
        errors[name] = {"in sample": summary(inside)} | {f"unseen {by}": summary(unseen[by]) for by in FOLDS}
    return Calibration(stacks), errors


def held_out(found: Sequence[Figure], by: str) -> np.ndarray:
    """Log errors [figure] of the predicted time by fits that had not seen the figure's model, hardware or source."""
    labels = np.array([getattr(figure, by) for figure in found])
    errors = np.zeros(len(found))
    for label in np.unique(labels):
        fitted = Calibration(_fit_all([f for f, own in zip(found, labels, strict=True) if own != label]))
        for row in np.flatnonzero(labels == label):
            errors[row] = _error(found[row], fitted.of(found[row].stack))
    return errors


def _belongs(figure: Figure, name: str) -> bool:
    stack, _, kind = name.partition(" ")
    return figure.stack == name or (stack == "any" and figure.stack.partition(" ")[2] == kind)


def _error(figure: Figure, factors: Factors) -> float:
    return float(np.log(factors.scale(figure.outcome, figure.age) / figure.wanted))


def _fit_all(found: Sequence[Figure]) -> dict[str, Factors]:
    fitted: dict[str, Factors] = {}
    for kind in sorted({figure.stack.partition(" ")[2] for figure in found}):
        alike = [figure for figure in found if figure.stack.partition(" ")[2] == kind]
        fitted[f"any {kind}"] = pooled = fit(alike, Factors(), 1.0)
        for stack in sorted({figure.stack for figure in alike}):
            own = [figure for figure in alike if figure.stack == stack]
            if len(own) >= FEWEST:
                fitted[stack] = fit(own, pooled, POOLED)
    return fitted


def fit(found: Sequence[Figure], centre: Factors, spread: float) -> Factors:
    """Factors that explain the figures best, drawn towards `centre`."""
    from scipy.optimize import least_squares

    kinds = sorted({kind for figure in found for kind in figure.outcome.seconds if kind != "idle"})
    share = np.array([[f.outcome.seconds.get(kind, 0.0) / f.outcome.total_s for kind in kinds] for f in found])
    rest = 1.0 - share.sum(axis=1)
    passes = np.array([f.outcome.passes * _HOST_UNIT / f.outcome.total_s for f in found])
    scans = np.array([f.outcome.scans / f.outcome.total_s for f in found])
    age = np.array([f.age or 0.0 for f in found])
    wanted = np.log([f.wanted for f in found])
    start = np.array(
        [
            *(np.log(centre.factors.get(kind, 1.0)) for kind in kinds),
            centre.host_s / _HOST_UNIT,
            centre.scan_s,
            centre.ageing,
        ]
    )
    own = [SPREAD[name] for name in ("host_ms", "scan_s", "ageing")]
    width = spread * np.array([SPREAD["factors"]] * len(kinds) + own)

    def residuals(x: np.ndarray) -> np.ndarray:
        scaled = share @ np.exp(x[:-3]) + rest + passes * x[-3] + scans * x[-2]
        missed = np.log(np.maximum(scaled, 1e-6)) + x[-1] * age - wanted
        return np.concatenate([missed, LOSS_SCALE * (x - start) / width])

    low = np.array([-3.0] * len(kinds) + [0.0, 0.0, -0.5])
    high = np.array([3.0] * len(kinds) + [50.0, 50.0, 1.5])
    begin = np.clip(start, low + 1e-6, high - 1e-6)
    x = least_squares(residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=LOSS_SCALE).x
    factors = {kind: round(float(np.exp(v)), 4) for kind, v in zip(kinds, x, strict=False)}
    constants = (round(float(x[-3]) * _HOST_UNIT, 7), round(float(x[-2]), 4), round(float(x[-1]), 4))
    return Factors(factors, *constants, entries=len(found))


def summary(errors: np.ndarray) -> dict[str, float]:
    """Median and P90 of the absolute relative error of a rate, from log errors of times."""
    size = np.abs(np.exp(-errors) - 1)
    return {"median": float(np.median(size)), "p90": float(np.quantile(size, 0.9))}


def interval(errors: np.ndarray) -> tuple[float, float]:
    """Factors on a predicted time that hold 80 % of the published ones."""
    low, high = np.quantile(np.exp(-errors), [0.1, 0.9])
    return float(round(min(low, 0.97), 4)), float(round(max(high, 1.03), 4))


def calibration_text(calibration: Calibration, errors: dict, *, source: str, date: str) -> str:
    """The file of a calibration."""
    head = (
        "# Calibration of stacks to published figures, written by benchmarks/published_report.py --fit; meanings:\n"
        "# moesim/study/entries/calibration.py. errors: of rates, by what a fit had not seen; fractions.\n"
    )
    stacks = {}
    for name, kept in sorted(calibration.stacks.items()):
        stacks[name] = {
            "entries": kept.entries,
            "factors": dict(kept.factors),
            "host_s": kept.host_s,
            "scan_s": kept.scan_s,
            "ageing": kept.ageing,
            "interval": list(kept.interval),
            "errors": {by: {k: round(v, 3) for k, v in found.items()} for by, found in errors[name].items()},
        }
    return head + yaml.safe_dump({"source": source, "date": date, "stacks": stacks}, sort_keys=False, width=118)
