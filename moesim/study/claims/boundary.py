"""Where a claim holds, in words: the steps of its grid between which its conditions change from met to not met.

Along the numeric variable with most steps, the crossing between two steps is interpolated: on logarithms where the
variable and the figure are positive, as sweeps double their values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.spec.studies.claim_file import Figure
from moesim.study.claims.reading import Claim
from moesim.study.claims.words import amount

_ALL, _NONE = "all", "none"
_AT_THE_STEP = 1e-3  # a crossing so near a step, of it, is that step

Met = Sequence[bool | None]  # one a point; None where the figure is unknown


@dataclass(frozen=True, slots=True)
class _Step:
    """A point along the main variable: at, whether the condition is met there, and the figure's value."""

    at: float
    met: bool
    value: float


def boundary(claim: Claim, rows: Sequence[Mapping[str, object]], met: Mapping[str, Met]) -> str:
    """What ``holds only when`` goes on with. rows, met: one entry a point of the grid; met by deciding figure."""
    if len(met) == 1:
        return _where(claim, rows, *next(iter(met.items())))
    told: dict[str, list[str]] = {}
    for key, column in met.items():
        known = [each for each in column if each is not None]
        where = _ALL if all(known) else _NONE if not any(known) else _where(claim, rows, key, column)
        told.setdefault(where, []).append(claim.figures[key][0].label or key.replace("_", " "))
    parts = [f"said of {', '.join(told.pop(_ALL))}"] if _ALL in told else []
    never = told.pop(_NONE, [])
    parts += [f"{', '.join(labels)}: {where}" for where, labels in told.items()]
    parts += [f"not of {', '.join(never)}"] if never else []
    return "; ".join(parts)


def main_step(claim: Claim) -> str:
    """The numeric variable with most steps, along which boundaries are told and pictures drawn; "" without one."""
    numeric = {name: len(values) for name, values in claim.steps.items() if all(_is_number(value) for value in values)}
    numeric = {name: count for name, count in numeric.items() if count > 1}
    return max(numeric, key=numeric.get) if numeric else ""


def _where(claim: Claim, rows: Sequence[Mapping[str, object]], key: str, column: Met) -> str:
    """Where one condition is met: along the main variable, for each combination of the others' steps."""
    main, figure = main_step(claim), claim.figures[key][0]
    others = [name for name in claim.steps if name != main]
    series: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if column[index] is not None:
            series.setdefault(tuple(amount(row[name]) for name in others), []).append(index)
    if not main:
        return f"{others[0]} is {' or '.join(', '.join(name) for name, (index, *_) in series.items() if column[index])}"
    told: dict[str, list[str]] = {}
    for name, indices in series.items():
        steps = sorted((_Step(rows[i][main], column[i], rows[i][key]) for i in indices), key=lambda step: step.at)
        if text := _along(main.replace("_", " "), steps, figure):
            told.setdefault(text, []).append(", ".join(name))
    if not others:
        return " and ".join(told)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in told.items())


def _along(name: str, steps: Sequence[_Step], figure: Figure) -> str:
    """Ranges of a variable in which a condition is met; "" for none."""
    texts = []
    for met, run in itertools.groupby(range(len(steps)), key=lambda index: steps[index].met):
        first, *_, last = [*(indices := list(run)), indices[-1]]
        if not met:
            continue
        before = steps[first - 1] if first else None
        after = steps[last + 1] if last + 1 < len(steps) else None
        low, high = amount(steps[first].at), amount(steps[last].at)
        if before and after:
            outside = f"not at {amount(before.at)}{_near(steps[first], before, figure)} or "
            outside += f"{amount(after.at)}{_near(steps[last], after, figure)}"
            texts.append(f"{name} {low if low == high else f'{low}–{high}'} ({outside})")
        elif before:
            texts.append(f"{name} ≥ {low} (not yet at {amount(before.at)}{_near(steps[first], before, figure)})")
        elif after:
            texts.append(f"{name} ≤ {high} (no more at {amount(after.at)}{_near(steps[last], after, figure)})")
        else:
            texts.append(f"any {name}")
    return " or ".join(texts)


def _near(met: _Step, unmet: _Step, figure: Figure) -> str:
    """Where between two steps the figure crosses its bound, in words; "" where that is the step that still meets it."""
    bound = figure.most if figure.most is not None and unmet.value > figure.most else figure.least
    values, ends = (met.value, unmet.value, bound), (met.at, unmet.at)
    if not all(map(math.isfinite, values)):
        return ""
    if min(*values, *ends) > 0:
        values, ends = [math.log(value) for value in values], [math.log(end) for end in ends]
    share = (values[2] - values[0]) / (values[1] - values[0])
    crossing = ends[0] + share * (ends[1] - ends[0])
    if min(met.value, unmet.value, bound, met.at, unmet.at) > 0:
        crossing = math.exp(crossing)
    return "" if math.isclose(crossing, met.at, rel_tol=_AT_THE_STEP) else f", crossing near {crossing:,.3g}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
