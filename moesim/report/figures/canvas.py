"""An empty picture, and writing it to a file."""

from __future__ import annotations

from pathlib import Path

from moesim.files import whole_file


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
    """Write a PNG, with the folder that it is to stand in. The file holds no date and no version."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130, format="png", metadata={"Software": None})
