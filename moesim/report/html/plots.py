"""Plots that several reports share, as plotly figures. plotly is imported when one is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moesim.engine.timeline import Timeline
from moesim.network.transfer import Transfer
from moesim.report.figures.step import COLOURS, layer_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

GREY = "#777777"
PALETTE = ("#2f5d8a", "#c4572e", "#6aa84f", "#8a6fb0", "#e0a030", "#b03a48", "#5b8db8", "#8e4585")
MOST_COLUMNS = 512  # of a heat map that still reads


def colour(kind: str) -> str:
    """Of a kind of operation, as in the pictures; backward passes and what is exposed take that of their kind."""
    return COLOURS.get(re.sub(r"^exposed_|_(backward|weights)$", "", kind), GREY)


def figure(**layout: object) -> go.Figure:
    """An empty plot with the look of all; layout: keys of plotly's layout."""
    import plotly.graph_objects as go

    common = {
        "template": "plotly_white",
        "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
        "hoverlabel": {"namelength": -1},
    }
    drawn = go.Figure(layout=common | layout)
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True)
    return drawn


def layer_timeline(
    timeline: Timeline, layer: int, bottleneck: Callable[[Transfer], tuple[str, str] | None] = lambda _: None
) -> go.Figure:
    """One layer as it ran on every rank: a row a rank, a trace a kind of operation, communication in the lower part.

    bottleneck: names the ends of the link that a collective waits for, which shows where the mouse is.
    """
    track, rows, shown = layer_rows(timeline, layer)
    origin = track.start[rows].min()
    bars: dict[str, dict[str, list]] = {}
    for index in rows:
        op = track.program.ops[index]
        link = bottleneck(op.transfer) if op.transfer is not None else None
        slowest = f"<br>slowest link: {' → '.join(link)}" if link else ""
        own = bars.setdefault(op.kind, {"base": [], "x": [], "y": [], "offset": [], "width": [], "text": []})
        begin = (track.start[index, shown] - origin) / 1e6
        own["base"] += np.round(begin, 4).tolist()
        own["x"] += np.round((track.end[index, shown] - track.start[index, shown]) / 1e6, 4).tolist()
        own["y"] += range(shown.size)
        offset, width = (-0.46, 0.92) if op.stream == "compute" else (0.04, 0.42)
        own["offset"] += [offset] * shown.size
        own["width"] += [width] * shown.size
        own["text"] += [f"{op.name}, rank {rank}{slowest}" for rank in track.program.ranks[shown]]
    drawn = figure(barmode="overlay", legend={"orientation": "h", "y": -0.15})
    for kind, own in sorted(bars.items(), key=lambda item: item[1]["width"][0], reverse=True):
        drawn.add_bar(
            name=kind,
            orientation="h",
            marker={"color": colour(kind), "line": {"width": 0}},
            hovertemplate="%{hovertext}<br>from %{base:.1f} µs, %{x:.1f} µs long<extra></extra>",
            textposition="none",
            hovertext=own.pop("text"),
            **own,
        )
    step = max(1, shown.size // 12)
    ticks = np.arange(0, shown.size, step)
    drawn.update_yaxes(title="rank", tickvals=ticks.tolist(), ticktext=track.program.ranks[shown[ticks]].tolist())
    drawn.update_yaxes(range=[shown.size - 0.5, -0.5])
    drawn.update_xaxes(title="µs since the layer began")
    return drawn


def breakdown(seconds: Mapping[str, float], waiting: Mapping[str, float], step_s: float) -> go.Figure:
    """Milliseconds by kind of operation, mean over ranks, longest on top; the part that waits is a trace of its own."""
    kinds = sorted(seconds, key=lambda kind: seconds[kind])
    whole = np.array([seconds[kind] for kind in kinds]) * 1e3
    idle = np.minimum([waiting.get(kind, 0.0) * 1e3 for kind in kinds], whole)
    share = whole / (step_s * 1e3)
    drawn = figure(barmode="stack", legend={"orientation": "h", "y": 1.08})
    hover = "%{y}: %{x:.3f} ms %{fullData.name}<br>%{customdata:.1%} of the step in all<extra></extra>"
    bar = {"y": kinds, "orientation": "h", "customdata": share, "hovertemplate": hover}
    drawn.add_bar(name="working", x=whole - idle, marker={"color": [colour(kind) for kind in kinds]}, **bar)
    if idle.any():
        pattern = {"shape": "/", "fgcolor": [colour(kind) for kind in kinds], "fillmode": "replace"}
        drawn.add_bar(name="waiting for late ranks and shared links", x=idle, marker={"pattern": pattern}, **bar)
    drawn.update_xaxes(title=f"ms a step, mean over ranks (the step takes {step_s * 1e3:.2f} ms)")
    return drawn


def heat_map(table: np.ndarray, *, across: str, down: str, of: str, scale: str = "Magma", most: float | None = None):
    """Values [row, column] in colour. across, down, of: what columns, rows and values are. More than `MOST_COLUMNS`
    columns are joined, each block with its largest value."""
    grid, block = coarse(np.asarray(table, dtype=np.float64))
    drawn = figure()
    most = float(np.nanmax(grid)) if most is None else most
    columns = np.arange(grid.shape[1]) * block
    drawn.add_heatmap(
        z=grid.astype(np.float32),
        x=columns,
        colorscale=scale,
        colorbar={"title": {"text": of, "side": "right"}},
        hovertemplate=f"{down} %{{y}}, {across} %{{x}}<br>%{{z:.3g}} {of}<extra></extra>",
        zmin=0.0,
        zmax=most,
    )
    joined = f" (the largest of each {block})" if block > 1 else ""
    drawn.update_xaxes(title=across + joined)
    drawn.update_yaxes(title=down, autorange="reversed")
    return drawn


def coarse(table: np.ndarray) -> tuple[np.ndarray, int]:
    """(table [row, column] with at most `MOST_COLUMNS` columns, columns in each block); NaN counts as nothing."""
    block = -(-table.shape[1] // MOST_COLUMNS)
    if block == 1:
        return table, 1
    padded = np.pad(table, ((0, 0), (0, -table.shape[1] % block)), constant_values=np.nan)
    blocks = padded.reshape(table.shape[0], -1, block)
    return np.where(np.isnan(blocks).all(axis=2), np.nan, np.fmax.reduce(blocks, axis=2)), block


def bars_with_interval(
    names: Sequence[str], middle: np.ndarray, low: np.ndarray, high: np.ndarray, unit: str, name: str
) -> go.Figure:
    """Horizontal bars, first on top, each with its interval as a whisker."""
    drawn = figure(barmode="group", legend={"orientation": "h", "y": 1.12})
    error = {"type": "data", "array": high - middle, "arrayminus": middle - low, "color": "#455a64", "thickness": 1.2}
    bounds = np.column_stack([low, high])
    hover = f"%{{y}}: %{{x:.4g}} {unit} (%{{customdata[0]:.4g}} – %{{customdata[1]:.4g}})<extra></extra>"
    drawn.add_bar(
        name=name, y=list(names), x=middle, orientation="h", error_x=error, customdata=bounds, hovertemplate=hover,
        marker={"color": "#5b8db8"},
    )  # fmt: skip
    drawn.update_yaxes(autorange="reversed")
    drawn.update_xaxes(title=unit)
    return drawn
