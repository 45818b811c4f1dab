"""Everything that ``moesim resilience --out`` writes of a service: latency through a failure, and states over weeks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moesim.files import write_table, write_text
from moesim.report.figures.canvas import new_figure, save_figure
from moesim.study.reliability.service_runs import ServiceResult

_BINS = 60


def write_service_report(result: ServiceResult, folder: str | Path) -> list[Path]:
    """Pictures (PNG), the requests of the run with one failure (Parquet) and the metrics (JSON). Returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("failure.png", "states.png", "requests.parquet", "metrics.json")]
    title = result.metrics["scenario"]
    draw_failure(result, written[0], f"{title}: one server fails")
    draw_states(result, written[1], title)
    write_table(written[2], result.requests)
    write_text(written[3], json.dumps(result.metrics, indent=2) + "\n")
    return written


def draw_failure(result: ServiceResult, path: str | Path, title: str = "") -> None:
    """TTFT and TPOT of requests by when they were submitted: median and 99th percentile, the outage shaded."""
    figure, panels = new_figure(11, 3.6, columns=2)
    for panel, column, unit, scale in zip(panels, ("ttft_s", "tpot_s"), ("s", "ms"), (1, 1e3), strict=True):
        for percentile, colour in ((50, "#2f5d8a"), (99, "#c4572e")):
            at, line = by_time(result, column, percentile)
            panel.plot(at, line * scale, color=colour, label=f"p{percentile}")
        for outage in result.outages:
            shade = "#e0a030" if outage.slowdown else "#b03a48"
            label = "slowed" if outage.slowdown else "down"
            panel.axvspan(outage.at_s, min(outage.until_s, at[-1]), color=shade, alpha=0.2, label=label)
        panel.set(xlabel="submitted at, s", ylabel=f"{column.removesuffix('_s').upper()}, {unit}", xlim=at[[0, -1]])
        panel.set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    save_figure(figure, path)


def by_time(result: ServiceResult, column: str, percentile: float) -> tuple[np.ndarray, np.ndarray]:
    """(seconds [bin], percentile [bin] of a latency) of the requests of the run with one failure that finished, by when
    they were submitted; NaN where none was."""
    table = result.requests[(result.requests["status"] == "finished") & ~result.requests["warmup"]]
    if table.empty:
        return np.array([0.0, 1.0]), np.full(2, np.nan)
    edges = np.linspace(table["submitted_s"].min(), table["submitted_s"].max(), _BINS + 1)
    place = np.clip(np.digitize(table["submitted_s"], edges) - 1, 0, _BINS - 1)
    groups = [table[column][place == number].dropna() for number in range(_BINS)]
    line = [np.percentile(group, percentile) if len(group) else np.nan for group in groups]
    return (edges[:-1] + edges[1:]) / 2, np.array(line)


def draw_states(result: ServiceResult, path: str | Path, title: str = "") -> None:
    """Share of time in each state (log scale), and how many requests are good in it."""
    figure, (axes,) = new_figure(7, 3.6)
    states = result.states
    names = [f"{row.up} up" + (f", {row.slowed} slowed" if row.slowed else "") for row in states.itertuples()]
    axes.barh(names, states["share"], color="#2f5d8a")
    for number, row in enumerate(states.itertuples()):
        axes.text(row.share, number, f" {row.share:.3%} of time, {row.good_share:.1%} good", va="center", fontsize=8)
    axes.set(xscale="log", xlabel="share of time", title=title, xlim=(states["share"].min() / 3, 30))
    axes.invert_yaxis()
    save_figure(figure, path)
