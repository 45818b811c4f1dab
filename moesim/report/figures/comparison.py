"""A picture of a comparison: which operations a step gained or lost time in, or how its figures moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moesim.report.figures.canvas import new_figure, save_figure
from moesim.report.figures.step import COLOURS
from moesim.study.comparison.compare import Comparison

_MOST_FIGURES = 16


def draw_comparison(found: Comparison, path: str | Path) -> None:
    """Bars of the change by operation, largest at the top, waiting hatched; of runs without operations, bars of the
    relative change of the figures."""
    if found.operations.empty:
        _draw_figures(found, path)
        return
    table = found.operations.iloc[::-1]
    figure, (axes,) = new_figure(9, 1.4 + 0.34 * len(table))
    change, waiting = table["change_s"].to_numpy() * 1e3, table["waiting_change_s"].to_numpy() * 1e3
    axes.barh(table["operation"], change, color=[COLOURS.get(name, "#777777") for name in table["operation"]])
    axes.barh(table["operation"], waiting, color="none", hatch="////", edgecolor="white", linewidth=0)
    _label(axes, change, [f"{value:+.3g} ms" for value in change])
    before, after = found.figures.set_index("figure").loc["step_time_s", ["a", "b"]] * 1e3
    axes.set(
        xlabel=f"ms a step, mean over ranks; the step takes {before:.4g} → {after:.4g} ms ({after / before - 1:+.1%})"
    )
    _finish(figure, axes, found, path)


def _draw_figures(found: Comparison, path: str | Path) -> None:
    table = found.figures.dropna(subset="relative").head(_MOST_FIGURES).iloc[::-1]
    figure, (axes,) = new_figure(9, 1.4 + 0.34 * max(len(table), 2))
    change = table["relative"].to_numpy(float) * 100
    axes.barh(table["figure"], change, color=np.where(change > 0, "#c4572e", "#2f5d8a"))
    _label(axes, change, [f"{value:+.3g} %" for value in change])
    axes.set(xlabel="change in %")
    _finish(figure, axes, found, path)


def _label(axes, values: np.ndarray, texts: list[str]) -> None:
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(value, row, f" {text} ", va="center", ha="left" if value >= 0 else "right", fontsize=8)


def _finish(figure, axes, found: Comparison, path: str | Path) -> None:
    axes.axvline(0, color="#455a64", linewidth=0.8)
    axes.margins(x=0.16)
    axes.set_title(f"{found.names[0]} → {found.names[1]}", fontsize=10, wrap=True)
    save_figure(figure, path)
