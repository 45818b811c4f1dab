"""An empty picture, and writing it to a file."""

from __future__ import annotations

import os
from pathlib import Path


def new_figure(width: float, height: float, columns: int = 1):
    """(figure, [columns] axes side by side) of a size in inches, without a window system or pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, columns, squeeze=False)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def save_figure(figure, path: str | Path) -> None:
    """Write a PNG beside its place, then move it there. The file holds no date and no version."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png", metadata={"Software": None})
    os.replace(partial, path)
