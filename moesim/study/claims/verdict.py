"""What the figures say of a claim: it holds, holds only when something is so, does not hold, or stays open.

Every figure with a bound is a condition, looked at in every point of the claim's grid. Where it is met everywhere the
claim holds, where nowhere it does not; in between, the boundary is where the grid's steps change from met to not met.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moesim.errors import InvalidInput
from moesim.spec.claim_file import Figure
from moesim.spec.complaints import did_you_mean
from moesim.study.claims.reading import Claim, Point
from moesim.study.claims.running import Measured
from moesim.study.claims.words import amount

HOLDS, ONLY_WHEN, FAILS, OPEN = "holds", "holds only when", "does not hold", "not decidable here"
ALL, NONE = "all", "none"
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
    return Decided(claim, ONLY_WHEN, _boundary(claim, rows, met), reason, rows)


def met_in(figure: Figure, value: object) -> bool | None:
    """Whether a value is what the claim says; None where it is unknown."""
    return _met(figure, value)


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


def _boundary(claim: Claim, rows: Sequence[Mapping], met: Mapping[str, Sequence[bool | None]]) -> str:
    if len(met) == 1:
        return _where(claim, rows, next(iter(met.values())))
    told: dict[str, list[str]] = {}
    for key, column in met.items():
        known = [each for each in column if each is not None]
        where = ALL if all(known) else NONE if not any(known) else _where(claim, rows, column)
        told.setdefault(where, []).append(claim.figures[key][0].label or key.replace("_", " "))
    parts = [f"said of {', '.join(told.pop(ALL))}"] if ALL in told else []
    never = told.pop(NONE, [])
    parts += [f"{', '.join(labels)}: {where}" for where, labels in told.items()]
    parts += [f"not of {', '.join(never)}"] if never else []
    return "; ".join(parts)


def _where(claim: Claim, rows: Sequence[Mapping], column: Sequence[bool | None]) -> str:
    """Where a condition is met, in words: along the numeric variable with most steps, for each of the others' steps."""
    main = main_step(claim)
    others = [name for name in claim.steps if name != main]
    told: dict[str, list[str]] = {}
    order = sorted(
        range(len(rows)), key=lambda i: [list(map(str, claim.steps[n])).index(str(rows[i][n])) for n in others]
    )
    for step, indices in itertools.groupby(order, key=lambda i: tuple(amount(rows[i][name]) for name in others)):
        indices = [index for index in indices if column[index] is not None]
        if not indices:
            continue
        text = (
            _along(main, [(rows[i][main], column[i]) for i in indices])
            if main
            else ("so" if column[indices[0]] else "")
        )
        if text:
            told.setdefault(text, []).append(", ".join(step))
    if not main:
        return f"{others[0]} is {' or '.join(told.get('so', ()))}"
    if not others:
        return " and ".join(told)
    return "; ".join(f"{', '.join(steps)}: {text}" for text, steps in told.items())


def main_step(claim: Claim) -> str:
    """The numeric variable with most steps, along which boundaries are told and pictures drawn; "" without one."""
    numeric = {name: len(values) for name, values in claim.steps.items() if all(_is_number(value) for value in values)}
    numeric = {name: count for name, count in numeric.items() if count > 1}
    return max(numeric, key=numeric.get) if numeric else ""


def _along(name: str, steps: Iterable[tuple[float, bool]]) -> str:
    """Ranges of a variable in which a condition is met; "" for none."""
    steps = sorted(steps)
    name = name.replace("_", " ")
    texts, position = [], 0
    for ok, run in itertools.groupby(steps, key=lambda step: step[1]):
        run = list(run)
        first, last = position, position + len(run) - 1
        position += len(run)
        if not ok:
            continue
        low, high = amount(run[0][0]), amount(run[-1][0])
        if first == 0 and last == len(steps) - 1:
            texts.append(f"any {name}")
        elif first == 0:
            texts.append(f"{name} ≤ {high} (no more at {amount(steps[last + 1][0])})")
        elif last == len(steps) - 1:
            texts.append(f"{name} ≥ {low} (not yet at {amount(steps[first - 1][0])})")
        else:
            between = f"{amount(steps[first - 1][0])} or {amount(steps[last + 1][0])}"
            texts.append(f"{name} {low if low == high else f'{low}–{high}'} (not at {between})")
    return " or ".join(texts)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
