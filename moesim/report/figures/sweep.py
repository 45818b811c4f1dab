"""A quick picture of a sweep: one figure of merit over the varied fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.report.figures.canvas import new_figure, save_figure

MOST_LINES = 10  # that still read; more fields than that become a heat map of the first two


def draw_sweep(table: pd.DataFrame, fields: Sequence[str], metric: str, path: str | Path, title: str = "") -> bool:
    """Draw `metric` over the numeric field with most values, a line for each combination of the others; as a heat map
    where that makes too many lines of two fields. False, and no file, where no run has the figure."""
    known = finished(table, metric)
    if known.empty:
        return False
    across = across_of(known, fields)
    others = [field for field in fields if field != across and known[field].nunique() > 1]
    figure, (axes,) = new_figure(8, 4.8)
    lines = known.groupby(others, sort=False) if others else [("", known)]
    if len(lines) > MOST_LINES and len(others) == 1:
        _heat_map(figure, axes, known, across, others[0], metric)
    else:
        _lines(axes, lines, across, metric, legend=bool(others) and len(lines) <= 2 * MOST_LINES, of=others)
    axes.set(xlabel=across, title=title)
    save_figure(figure, path)
    return True


def finished(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs of a sweep that have a figure."""
    return table[(table["status"] == "ok") & table.get(metric, pd.Series(np.nan, table.index)).notna()]


def across_of(known: pd.DataFrame, fields: Sequence[str]) -> str:
    """The field to draw along: a numeric one where there is one, with most values."""
    numeric = [field for field in fields if pd.api.types.is_numeric_dtype(known[field])]
    return max(numeric or fields, key=lambda field: known[field].nunique())


def _lines(axes, lines, across: str, metric: str, *, legend: bool, of: Sequence[str]) -> None:
    for values, part in lines:
        values = values if isinstance(values, tuple) else (values,)
        label = ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in zip(of, values, strict=False))
        part = part.sort_values(across, kind="stable")
        axes.plot(part[across], part[metric], marker="o", markersize=4, label=label)
    axes.set(ylabel=metric)
    axes.set_ylim(bottom=0)
    numbers = axes.lines[0].get_xdata()
    if np.issubdtype(np.asarray(numbers).dtype, np.number) and min(numbers) > 0 and max(numbers) / min(numbers) >= 16:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if legend:
        axes.legend(fontsize=8, frameon=False)


def _heat_map(figure, axes, known: pd.DataFrame, across: str, down: str, metric: str) -> None:
    grid = known.pivot_table(index=down, columns=across, values=metric, sort=False)
    image = axes.imshow(grid, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_xticks(range(grid.shape[1]), [f"{value}" for value in grid.columns], rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(grid.shape[0]), [f"{value}" for value in grid.index], fontsize=7)
    axes.set(ylabel=down)
    figure.colorbar(image, ax=axes, label=metric)
