"""An empty picture, and writing it to a file."""

from __future__ import annotations

import os
from pathlib import Path


def new_figure(width: float, height: float):
    """(figure, axes) of a size in inches, without a window system and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure, path: str | Path) -> None:
    """Write a PNG beside its place, then move it there. The file holds no date and no version."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png", metadata={"Software": None})
    os.replace(partial, path)
