"""The small picture of a claim: its figure over the grid, and the range that is claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moesim.report.figures.canvas import new_figure
from moesim.spec.studies.claim_file import Figure
from moesim.study.claims.boundary import main_step
from moesim.study.claims.table import label
from moesim.study.claims.verdict import Decided
from moesim.study.claims.words import amount

_CLAIMED = "#d7a300"
_UNITS = {"share": "%", "x": "×", "s": "seconds", "B": "bytes", "B/s": "bytes/s", "USD": "USD"}


def draw_claim(decided: Decided):
    """A matplotlib figure of a claim whose grid has more than one point, one panel a deciding figure that varies (at
    most three); None for the others.

    Lines over the numeric variable with most steps, one for each combination of the others; bars without such a
    variable. The band is what is claimed.
    """
    drawable = [item for item in decided.conditions.items() if _drawable(decided, item[0])]
    shown = [item for item in drawable if _varies(decided, item[0])][:3] or drawable[:1]
    if len(decided.rows) < 2 or not shown:
        return None
    figure, panels = new_figure(4.4 * len(shown), 2.9, len(shown))
    main = main_step(decided.claim)
    for axes, (key, each) in zip(panels, shown, strict=True):
        if main:
            _lines(axes, decided, key, each, main)
        else:
            _bars(axes, decided, key, each)
        _band(axes, each)
        axes.tick_params(labelsize=7)
    return figure


def _drawable(decided: Decided, key: str) -> bool:
    return any(math.isfinite(row[key]) for row in decided.rows)


def _varies(decided: Decided, key: str) -> bool:
    return len({row[key] for row in decided.rows if math.isfinite(row[key])}) > 1


def _scale(figure: Figure) -> float:
    return 100.0 if figure.unit == "share" else 1.0


def _lines(axes, decided: Decided, key: str, figure: Figure, main: str) -> None:
    others = [name for name in decided.claim.steps if name != main]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in decided.rows:
        name = ", ".join(amount(row[other]) for other in others)
        series.setdefault(name, []).append((row[main], row[key] * _scale(figure)))
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", markersize=3, linewidth=1.2, label=name or None)
    xs = [row[main] for row in decided.rows]
    if min(xs) > 0 and max(xs) / min(xs) > 20:
        axes.set_xscale("log")
    _log_if_wide(axes, [row[key] for row in decided.rows], "y")
    axes.set_xlabel(main.replace("_", " "), fontsize=8)
    axes.set_ylabel(_axis_label(key, figure), fontsize=8)
    if any(series):
        axes.legend(fontsize=6, frameon=False)


def _bars(axes, decided: Decided, key: str, figure: Figure) -> None:
    names = [", ".join(amount(row[name]) for name in decided.claim.steps) for row in decided.rows]
    values = [row[key] * _scale(figure) for row in decided.rows]
    axes.barh(names[::-1], [0 if math.isnan(value) else value for value in values[::-1]], height=0.55, color="#5b84b1")
    _log_if_wide(axes, values, "x")
    axes.set_xlabel(_axis_label(key, figure), fontsize=8)
    axes.margins(x=0.08)


def _band(axes, figure: Figure) -> None:
    """The claimed range, along the axis that carries the figure."""
    upright = axes.get_ylabel() != ""
    span, line = (axes.axhspan, axes.axhline) if upright else (axes.axvspan, axes.axvline)
    scale = _scale(figure)
    if figure.least is not None and figure.most is not None and figure.least < figure.most:
        span(figure.least * scale, figure.most * scale, color=_CLAIMED, alpha=0.25, linewidth=0)
        return
    for bound in {figure.least, figure.most} - {None}:
        line(bound * scale, color=_CLAIMED, linewidth=1.5, linestyle="--")


def _log_if_wide(axes, values: Sequence[float], which: str) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if min(finite) > 0 and max(finite) / min(finite) > 50:
        axes.set(**{f"{which}scale": "log"})


def _axis_label(key: str, figure: Figure) -> str:
    unit = _UNITS.get(figure.unit, figure.unit)
    text = label(key, figure)
    return f"{text} [{unit}]" if unit else text
