"""The report of a sweep: one figure over the varied fields, and every run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from moesim.report.figures.sweep import MOST_LINES, across_of, finished
from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.words import assumptions, source
from moesim.study.results.record import origin
from moesim.study.scenarios import kind_of
from moesim.study.sweeps.grid import Grid

_MOST_ROWS = 2000  # of the table of runs; all are in the results


def sweep_page(grid: Grid, table: pd.DataFrame, metric: str, shown: Sequence[str]) -> Page:
    """What `metric` does over a grid. table: `moesim.study.sweeps.sweep.run_grid`. shown: figures of the table."""
    known = finished(table, metric)
    counts = table["status"].value_counts()
    names = [name for name in dict.fromkeys((metric, *shown)) if name in table]
    return Page(
        title=f"{grid.base.name}: {metric} over {' × '.join(grid.leading)}",
        asked=f"What does {metric} do over {', '.join(grid.fields)}? {len(table)} runs of {grid.base.name}.",
        answer=_answer(known, grid, metric),
        sure="; ".join(f"{count} {status}" for status, count in counts.items())
        + ". Each run has the interval of its own kind (moesim run, moesim serve).",
        why=_why(known, grid, metric),
        headline=tuple(_headline(known, metric)),
        sections=(
            *_plot(known, grid, metric),
            _runs(table, grid, names),
            *_reasons(table),
            *assumptions(grid.base, grid.base.check(kind_of(grid.base).schema)),
        ),
        source=source({**origin(grid.base), **_seed(grid)}, f"scenario {grid.base.name}"),
    )


def _seed(grid: Grid) -> dict[str, object]:
    return {"seed": grid.base.data["seed"]} if "seed" in grid.base.data else {}


def _where(row: pd.Series, grid: Grid) -> str:
    return ", ".join(f"{field} {row[field]}" for field in grid.leading)


def _answer(known: pd.DataFrame, grid: Grid, metric: str) -> str:
    if known.empty:
        return f"No run has a {metric}; the reasons stand below."
    low, high = known.loc[known[metric].idxmin()], known.loc[known[metric].idxmax()]
    return (
        f"{metric} lies between {low[metric]:.4g} ({_where(low, grid)}) and {high[metric]:.4g} ({_where(high, grid)})."
    )


def _why(known: pd.DataFrame, grid: Grid, metric: str) -> str:
    """Which field moves the figure most: its highest mean over its lowest, or less it where one is not above 0."""
    compared = () if known.empty else grid.leading  # without a result the table has no column of the figure
    means = {field: known.groupby(field, sort=False)[metric].mean() for field in compared}
    ends = {field: (float(mean.min()), float(mean.max())) for field, mean in means.items() if len(mean) > 1}
    if not ends:
        return "One value of each field has results: nothing is compared."
    above = all(low > 0 for low, _ in ends.values())
    moves = {field: high / low if above else high - low for field, (low, high) in ends.items()}
    most = sorted(moves.items(), key=lambda item: -item[1])
    told = ", ".join(f"{field} by {moved:.3g}{' ×' if above else ''}" for field, moved in most)
    return f"Averaged over all other fields, {metric} moves with {told} from its lowest value to its highest."


def _headline(known: pd.DataFrame, metric: str) -> tuple[Figure, ...]:
    if known.empty:
        return ()
    values = known[metric]
    of = (("lowest", values.min()), ("median", values.median()), ("highest", values.max()))
    return tuple(Figure(f"{name} {metric}", f"{value:.4g}") for name, value in of)


def _plot(known: pd.DataFrame, grid: Grid, metric: str) -> list[Section]:
    if known.empty:
        return []
    across = across_of(known, grid.leading)
    others = [field for field in grid.leading if field != across and known[field].nunique() > 1]
    lines = list(known.groupby(others, sort=False)) if others else [("", known)]
    if len(lines) > MOST_LINES and len(others) == 1:
        cells = known.pivot_table(index=others[0], columns=across, values=metric, sort=False)
        drawn = plots.figure()
        drawn.add_heatmap(
            z=cells.to_numpy(), x=[str(value) for value in cells.columns], y=[str(value) for value in cells.index],
            colorscale="Viridis", colorbar={"title": {"text": metric, "side": "right"}},
            hovertemplate=f"{others[0]} %{{y}}, {across} %{{x}}<br>{metric} %{{z:.4g}}<extra></extra>",
        )  # fmt: skip
        drawn.update_yaxes(title=others[0])
    else:
        drawn = plots.figure(hovermode="x", hoverdistance=-1, legend={"orientation": "h", "y": -0.25})
        for values, part in lines:
            label = ", ".join(map(str, values)) if isinstance(values, tuple) else str(values)
            ordered = part.sort_values(across, kind="stable")
            drawn.add_scatter(
                x=ordered[across], y=ordered[metric], mode="lines+markers", name=label, showlegend=bool(others),
                hovertemplate=f"{across} %{{x}}: %{{y:.4g}}<extra>{label}</extra>",
            )  # fmt: skip
        drawn.update_yaxes(title=metric, rangemode="tozero")
    drawn.update_xaxes(title=across)
    told = f"A line for each {', '.join(others)}." if others else ""
    return [Section(f"{metric} over {across}", told, drawn)]


def _runs(table: pd.DataFrame, grid: Grid, names: Sequence[str]) -> Section:
    shown = table[[*grid.fields, "status", *names]].head(_MOST_ROWS).copy()
    for name in names:
        shown[name] = [
            f"{value:.5g}" if isinstance(value, float) and value == value else value for value in shown[name]
        ]
    told = f"The first {_MOST_ROWS:,} of {len(table):,}." if len(table) > _MOST_ROWS else ""
    return Section("Runs", told, table=shown.fillna(""))


def _reasons(table: pd.DataFrame) -> list[Section]:
    reasons = table[table["reason"] != ""].groupby("reason", sort=False).size()
    if reasons.empty:
        return []
    rows = [(reason.splitlines()[0], f"{count:,}") for reason, count in reasons.items()]
    return [Section("Runs without a result", table=pd.DataFrame(rows, columns=["reason", "runs"]))]
