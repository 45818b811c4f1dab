"""Published figures beside predictions, as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moesim.report.figures.canvas import new_figure, save_figure

_COLOURS = {"training": "#2f5d8a", "inference": "#c4572e"}
_MOST = 24  # sources that still have a line of their own
_EDGES = (0.3, 3.0)  # of predicted over published; what lies beyond is shown as an arrow at the edge


def draw_published(table: pd.DataFrame, path: Path) -> None:
    """Predicted over published, a line a source, with the intervals; written to `path` as PNG.

    table: columns source, kind, value, predicted, low, high.
    """
    known = table[np.isfinite(table["predicted"]) & (table["value"] > 0)]
    sources = known.groupby("source").size().sort_values(ascending=True).index[-_MOST:]
    figure, (axes,) = new_figure(10, 1.2 + 0.3 * len(sources))
    for line, source in enumerate(sources):
        part = known[known["source"] == source]
        ratio = (part["predicted"] / part["value"]).to_numpy()
        place = line + np.linspace(-0.3, 0.3, len(part)) if len(part) > 1 else np.array([float(line)])
        colours = [_COLOURS.get(kind, "#777777") for kind in part["kind"]]
        axes.hlines(place, part["low"] / part["value"], part["high"] / part["value"], color="#cccccc", linewidth=0.6)
        for beyond, marker, size in (
            ((ratio >= _EDGES[0]) & (ratio <= _EDGES[1]), "o", 9),
            (ratio < _EDGES[0], "<", 26),
            (ratio > _EDGES[1], ">", 26),
        ):
            shown = np.clip(ratio[beyond], _EDGES[0] * 1.03, _EDGES[1] / 1.03)
            axes.scatter(shown, place[beyond], s=size, c=np.array(colours)[beyond], marker=marker, zorder=3)
    axes.axvspan(0.85, 1.15, color="#e8efe4", zorder=0)
    axes.axvline(1, color="#777777", linewidth=0.8)
    axes.set_xscale("log")
    told = "predicted / published\n(shaded: within 15 %; blue training, red inference; arrows: beyond the edge)"
    axes.set(xlim=_EDGES, xlabel=told)
    axes.set_xticks([0.33, 0.5, 0.67, 1, 1.5, 2, 3], ["1/3", "1/2", "2/3", "1", "1.5", "2", "3"])
    axes.minorticks_off()
    axes.set_yticks(range(len(sources)), [_short(source) for source in sources], fontsize=7)
    save_figure(figure, path)


def _short(source: str) -> str:
    name = source.removeprefix("github ").split(" @")[0]
    return name if len(name) <= 62 else f"{name[:26]} … {name[-33:]}"
