"""The picture of a router comparison: what a router learns against what it costs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from moesim.report.figures.canvas import new_figure, save_figure


def draw_router_comparison(table: pd.DataFrame, path: str | Path) -> None:
    """One panel a cluster: step time across, held-out loss up; lower left is better. Size shows the hottest rank."""
    clusters = [name.removesuffix("_step_s") for name in table.columns if name.endswith("_step_s")]
    figure, panels = new_figure(5.2 * len(clusters), 5.2, columns=len(clusters))
    for axes, cluster in zip(panels, clusters, strict=True):
        milliseconds = table[f"{cluster}_step_s"] * 1e3
        size = 30 * table[f"{cluster}_hottest_rank"]
        axes.scatter(milliseconds, table["held_out_loss"], s=size, color="#2f5d8a", alpha=0.7, linewidth=0)
        for x, y, name in zip(milliseconds, table["held_out_loss"], table["router"], strict=True):
            axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel="ms a decode step", title=cluster)
        axes.margins(x=0.2)
    panels[0].set_ylabel("held-out loss, nats a token")
    save_figure(figure, path)
