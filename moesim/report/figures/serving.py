"""Pictures of served requests: what the servers went through, latency distributions, frontiers, predicted against
measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.report.figures.canvas import save_figure
from moesim.serving.journal import Journal

_POINTS = 2000  # of a line that still reads


def draw_timeline(journals: Sequence[Journal], path: str | Path, title: str = "") -> None:
    """Requests waiting, batch, KV cache, busiest and hottest rank over time, a colour a server."""
    figure, axes = _figure(10, 9, rows=5)
    panels = (
        ("waiting", "waiting"),
        ("total", "decoding"),
        ("kv_share", "KV cache in use"),
        ("uneven", "sequences, busiest\nrank / mean"),
        ("hottest", "routed tokens, hottest\nrank / mean"),
    )
    for number, journal in enumerate(journals):
        rows = journal.table()
        if not rows["start_s"].size:
            continue
        grid = np.linspace(rows["start_s"][0], rows["start_s"][-1] + rows["seconds"][-1], _POINTS)
        at = np.clip(np.searchsorted(rows["start_s"], grid, side="right") - 1, 0, None)
        for panel, (column, label) in zip(axes, panels, strict=True):
            panel.plot(grid, rows[column][at], linewidth=0.8, label=f"server {number}")
            panel.set(ylabel=label)
    for panel in axes:
        panel.margins(x=0)
        panel.set_ylim(bottom=0)
    axes[0].set_title(title)
    axes[-1].set_xlabel("s")
    if len(journals) > 1:
        axes[0].legend(fontsize=8, ncols=4)
    save_figure(figure, path)


def draw_latencies(table: pd.DataFrame, path: str | Path, title: str = "") -> None:
    """Distributions of TTFT and TPOT over finished requests: share of requests that are at most so slow."""
    figure, axes = _figure(9, 3.6, columns=2)
    done = table[(table["status"] == "finished") & ~table["warmup"]]
    for panel, column, unit, scale in zip(axes, ("ttft_s", "tpot_s"), ("s", "ms"), (1, 1e3), strict=True):
        values = np.sort(done[column].dropna().to_numpy()) * scale
        if values.size:
            panel.plot(values, np.arange(1, values.size + 1) / values.size, color="#2f5d8a")
            for level in (50, 90, 99):
                at = np.percentile(values, level)
                panel.axvline(at, color="#c4572e", linewidth=0.6)
                panel.text(at, 0.02, f" p{level}", fontsize=7, color="#c4572e")
        panel.set(xlabel=f"{column.removesuffix('_s').upper()}, {unit}", ylabel="share of requests", ylim=(0, 1))
    figure.suptitle(title)
    save_figure(figure, path)


def draw_pareto(table: pd.DataFrame, path: str | Path, measured: pd.DataFrame | None = None, title: str = "") -> None:
    """Tokens/s a device against tokens/s a user, a line a model, labelled by concurrency; measured runs as crosses."""
    figure, axes = _figure(7.5, 5)
    for model, part in table.groupby("model", sort=False):
        x, y = part["tokens_per_s_per_user"], part["output_tokens_per_s_per_device"]
        axes.plot(x, y, marker="o", markersize=4, label=f"{model}, predicted")
        for u, v, load in zip(x, y, part["concurrency"], strict=True):
            axes.annotate(str(load), (u, v), fontsize=7, xytext=(3, 3), textcoords="offset points")
    if measured is not None and len(measured):
        x, y = measured["tokens_per_s_per_user"], measured["output_tokens_per_s_per_device"]
        axes.scatter(x, y, marker="x", color="#b03060", label="measured", zorder=3)
        for u, v, load in zip(x, y, measured["concurrency"], strict=True):
            axes.annotate(
                f"{load:.0f}", (u, v), fontsize=7, color="#b03060", xytext=(3, -8), textcoords="offset points"
            )
    axes.set(xlabel="tokens/s a user (1/TPOT)", ylabel="output tokens/s a device", title=title, ylim=(0, None))
    axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_predictions(predicted: pd.DataFrame, path: str | Path, by: str = "software") -> None:
    """Predicted against measured TTFT and TPOT on logarithms, a colour a group; the grey band is ±20 %."""
    figure, axes = _figure(11, 5, columns=2)
    for panel, name in zip(axes, ("tpot", "ttft"), strict=True):
        known = predicted[np.isfinite(predicted[f"{name}_s"]) & np.isfinite(predicted[f"predicted_{name}_s"])]
        for group, part in known.groupby(by, sort=True):
            panel.scatter(part[f"{name}_s"] * 1e3, part[f"predicted_{name}_s"] * 1e3, s=8, alpha=0.6, label=str(group))
        if len(known):
            ends = np.array([known[f"{name}_s"].min(), known[f"{name}_s"].max()]) * 1e3
            panel.fill_between(ends, ends * 0.8, ends * 1.2, color="#dddddd", zorder=0)
        panel.set(
            xscale="log", yscale="log", xlabel=f"measured {name.upper()}, ms", ylabel=f"predicted {name.upper()}, ms"
        )
    axes[0].legend(fontsize=8)
    save_figure(figure, path)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=rows > 1)
    for panel in np.atleast_1d(axes):
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes
