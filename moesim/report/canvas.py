"""Figures without pyplot: no window, no state left behind, and nobody sees half a file."""

from __future__ import annotations

import os
from pathlib import Path


def new_figure(width: float, height: float, columns: int = 1):
    """A figure of so many inches and its axes, side by side: (figure, tuple of axes)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = tuple(figure.subplots(1, columns, squeeze=False)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure, path: str | Path) -> None:
    """Write a PNG to a temporary file, then rename it. Without matplotlib's version, equal pictures are equal bytes."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=130, format="png", metadata={"Software": None})
    os.replace(partial, path)
