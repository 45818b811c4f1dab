"""What the figures say of a claim: it holds, holds only when something is so, does not hold, or stays open.

Every figure with a bound is a condition, looked at in every point of the claim's grid. Where it is met everywhere the
claim holds, where nowhere it does not; in between, `moesim.study.claims.boundary` tells where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from moesim.errors import InvalidInput
from moesim.spec.reading.complaints import did_you_mean
from moesim.spec.studies.claim_file import Figure
from moesim.study.claims.boundary import boundary
from moesim.study.claims.reading import Claim, Point
from moesim.study.claims.running import Measured
from moesim.study.claims.words import amount

HOLDS, ONLY_WHEN, FAILS, OPEN = "holds", "holds only when", "does not hold", "not decidable here"
VERDICTS = (HOLDS, ONLY_WHEN, FAILS, OPEN)


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A claim and its verdict. when: the boundary of ``holds only when``; reason: why it stays open, or which points
    count for nothing. rows: one a point, the steps' variables and the figures (NaN where a run did not fit)."""

    claim: Claim
    verdict: str
    when: str
    reason: str
    rows: tuple[Mapping[str, object], ...]

    @property
    def conditions(self) -> dict[str, Figure]:
        """The figures that decide."""
        return {key: figure for key, (figure, _) in self.claim.figures.items() if figure.decides}


def decide(claim: Claim, measured: Mapping[str, Measured]) -> Decided:
    """The verdict on a claim from its measurements. Raises InvalidInput where a formula names a figure nobody gave."""
    if claim.undecidable:
        return Decided(claim, OPEN, "", claim.undecidable, ())
    rows = tuple(_row(claim, point, measured) for point in claim.points)
    decisive = [key for key, (figure, _) in claim.figures.items() if figure.decides]
    met = {key: [_met(claim.figures[key][0], row[key]) for row in rows] for key in decisive}
    known = [each for column in met.values() for each in column if each is not None]
    reason = _unfit(claim, measured)
    if not known:
        return Decided(claim, OPEN, "", reason, rows)
    if all(known):
        return Decided(claim, HOLDS, "", reason, rows)
    if not any(known):
        return Decided(claim, FAILS, "", reason, rows)
    return Decided(claim, ONLY_WHEN, boundary(claim, rows, met), reason, rows)


def _met(figure: Figure, value: float) -> bool | None:
    if math.isnan(value):
        return None
    return (figure.least is None or value >= figure.least) and (figure.most is None or value <= figure.most)


def _row(claim: Claim, point: Point, measured: Mapping[str, Measured]) -> dict[str, object]:
    row: dict[str, object] = {name: point.values[name] for name in claim.steps}
    for key, (_, formula) in claim.figures.items():
        row[key] = formula.value(lambda name, key=key: _look_up(claim, point, measured, key, name))
    return row


def _look_up(claim: Claim, point: Point, measured: Mapping[str, Measured], key: str, name: str) -> float:
    head, _, rest = name.partition(".")
    if not rest:
        return float(point.values[name])
    result = measured[point.runs[head].key]
    if rest == "fits" and result.status in ("ok", "infeasible"):
        return float(result.status == "ok")
    if result.status != "ok":
        return math.nan
    value: object = result.figures
    for part in rest.split("."):
        known = value if isinstance(value, Mapping) else {}
        if part not in known:
            told = f"{name}: the run gives no {part!r}{did_you_mean(part, known) or '; there are ' + ', '.join(known)}"
            raise InvalidInput(claim.problem(("figures", key, "formula"), told))
        value = known[part]
    if value is None:  # not finite where it was measured
        return math.nan
    if not isinstance(value, (int, float)):
        told = f"{name} is no number but holds {', '.join(value) if isinstance(value, Mapping) else 'nothing'}"
        raise InvalidInput(claim.problem(("figures", key, "formula"), told))
    return float(value)


def _unfit(claim: Claim, measured: Mapping[str, Measured]) -> str:
    """What did not fit, once for each kind of reason."""
    told: dict[str, list[str]] = {}
    for point in claim.points:
        for run in point.runs.values():
            result = measured[run.key]
            if result.status != "ok":
                told.setdefault(result.reason.splitlines()[0].partition(" (")[0], []).append(
                    _named(claim, point.values)
                )
    return "; ".join(f"{', '.join(filter(None, dict.fromkeys(at))) or 'it'}: {why}" for why, at in told.items())


def _named(claim: Claim, values: Mapping[str, object]) -> str:
    return " ".join(f"{name} {amount(values[name])}" for name in claim.steps)
