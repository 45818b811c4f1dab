"""Pictures of how good cost models are: predicted against measured, and errors by size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moesim.report.figures.canvas import new_figure, save_figure

_MOST_POINTS = 20_000  # more dots than a picture can show; a fixed draw of them, so that pictures repeat


def draw_predicted_against_measured(
    rows: pd.DataFrame, path: str | Path, *, predicted: str = "predicted_s", by: str = "hardware", title: str = ""
) -> None:
    """One dot a row, measured seconds across and predicted up; dashed lines are 20 % off. by: column of the colours."""
    rows = _drawn(rows, predicted)
    figure, (axes,) = new_figure(6.4, 6)
    for label, part in rows.groupby(by, sort=True):
        axes.loglog(part["latency_s"], part[predicted], ".", markersize=1.5, alpha=0.35, label=str(label))
    ends = np.array([rows["latency_s"].min(), rows["latency_s"].max()])
    axes.loglog(ends, ends, color="black", linewidth=0.8)
    for factor in (0.8, 1.2):
        axes.loglog(ends, factor * ends, color="black", linewidth=0.6, linestyle="--")
    axes.set(xlabel="measured, s", ylabel="predicted, s", title=title)
    axes.legend(markerscale=8, frameon=False)
    save_figure(figure, path)


def draw_residuals_by_size(
    rows: pd.DataFrame,
    size: str,
    path: str | Path,
    *,
    predicted: str = "predicted_s",
    by: str = "hardware",
    title: str = "",
) -> None:
    """Predicted over measured against a size: median of each doubling as a line, the middle 80 % shaded."""
    rows = rows[np.isfinite(rows[predicted])]
    figure, (axes,) = new_figure(7.6, 4)
    for label, part in rows.groupby(by, sort=True):
        ratio = part[predicted] / part["latency_s"]
        doubling = np.round(np.log2(np.maximum(part[size], 1)))
        middle = ratio.groupby(doubling).quantile([0.1, 0.5, 0.9]).unstack()
        (line,) = axes.semilogx(2.0**middle.index, middle[0.5], marker="o", markersize=3, label=str(label))
        axes.fill_between(2.0**middle.index, middle[0.1], middle[0.9], color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel=size, ylabel="predicted / measured", title=title, ylim=(0.5, 1.6))
    axes.legend(frameon=False)
    save_figure(figure, path)


def _drawn(rows: pd.DataFrame, predicted: str) -> pd.DataFrame:
    rows = rows[np.isfinite(rows[predicted])]
    return rows.sample(_MOST_POINTS, random_state=0) if len(rows) > _MOST_POINTS else rows
