"""Everything that ``moesim resilience --out`` writes: where the time went, one run, goodput against the interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moesim.files import write_table, write_text
from moesim.report.figures.canvas import new_figure, save_figure
from moesim.resilience.process import STATES, RunLog
from moesim.study.reliability.training_runs import ResilienceResult

COLOURS = {
    "work": "#2f5d8a", "slowed": "#7fa7cf", "lost": "#c4572e", "checkpoint": "#8a6fb0", "detection": "#e0a030",
    "waiting": "#b03a48", "restart": "#d9822b", "rejoin": "#6aa84f",
}  # fmt: skip


def write_resilience_report(result: ResilienceResult, folder: str | Path) -> list[Path]:
    """Pictures (PNG), the seeds (Parquet) and the metrics (JSON). Returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "spent.png", folder / "goodput.png"]
    title = result.metrics["scenario"]
    draw_spent(result, written[0], title)
    draw_goodput(result, written[1], title)
    if result.first is not None:
        written.append(folder / "run.png")
        draw_run(result.first, written[-1], f"{title}: the first run")
    written += [folder / "seeds.parquet", folder / "metrics.json"]
    write_table(written[-2], result.table)
    write_text(written[-1], json.dumps(result.metrics, indent=2) + "\n")
    return written


def draw_spent(result: ResilienceResult, path: str | Path, title: str = "") -> None:
    """What the wall time of every seed went to, work left out where it would hide the rest."""
    figure, (axes,) = new_figure(9, 3.6)
    table = result.table.sort_values("goodput", ascending=False)
    bottom = np.zeros(len(table))
    for state in STATES[1:]:
        share = (table[f"{state}_s"] / table["wall_s"]).to_numpy()
        axes.bar(np.arange(len(table)), share, bottom=bottom, width=0.9, color=COLOURS[state], label=state)
        bottom += share
    axes.set(xlabel="runs, best first", ylabel="share of wall time lost", title=title)
    axes.margins(x=0.01)
    axes.legend(fontsize=8, ncols=4)
    save_figure(figure, path)


def draw_goodput(result: ResilienceResult, path: str | Path, title: str = "") -> None:
    """Goodput against the checkpoint interval where intervals were tried, else its distribution over runs."""
    figure, (axes,) = new_figure(7, 3.6)
    curve, metrics = result.curve, result.metrics
    if len(curve):
        hours = curve["interval_s"] / 3600
        axes.fill_between(hours, curve["low"], curve["high"], color="#2f5d8a", alpha=0.2, label="80 % of runs")
        axes.plot(hours, curve["goodput"], color="#2f5d8a", marker="o", label="simulated")
        for name, colour in (("young_s", "#e0a030"), ("daly_s", "#c4572e")):
            at = metrics["checkpoint"][name] / 3600
            axes.axvline(at, color=colour, linewidth=1, label=name.removesuffix("_s").title())
        axes.set(xscale="log", xlabel="work between checkpoints, h", ylabel="goodput", title=title)
    else:
        values = np.sort(result.table["goodput"])
        axes.plot(values, np.arange(1, values.size + 1) / values.size, color="#2f5d8a", drawstyle="steps-post")
        if metrics["goodput_by_daly"] is not None:
            axes.axvline(metrics["goodput_by_daly"], color="#c4572e", linewidth=1, label="Daly's formula")
        axes.set(xlabel="goodput", ylabel="share of runs", title=title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_run(log: RunLog, path: str | Path, title: str = "") -> None:
    """One run from start to end: a lane for every state."""
    figure, (axes,) = new_figure(11, 3.2)
    begins = [at for at, _ in log.history]
    ends = [*begins[1:], log.wall_s]
    shown = [state for state in STATES if any(name == state for _, name in log.history)]
    for lane, state in enumerate(shown):
        spans = [
            (begin / 86400, (end - begin) / 86400)
            for begin, end, (_, name) in zip(begins, ends, log.history, strict=True)
            if name == state
        ]
        axes.broken_barh(spans, (lane - 0.4, 0.8), color=COLOURS[state], linewidth=0.3, edgecolor=COLOURS[state])
    axes.set(yticks=range(len(shown)), yticklabels=shown, xlabel="days", title=title, xlim=(0, log.wall_s / 86400))
    save_figure(figure, path)
