"""A picture of offloaded experts: hit rate and stall of every layer, a line a policy."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from moesim.report.figures.canvas import new_figure, save_figure

COLOURS = {"lru": "#2f5d8a", "lfu": "#6aa84f", "pinned_popular": "#e0a030", "belady": "#444444"}
STYLES = {"none": "-", "learned": "--", "pre_gated": ":"}


def draw_offload(table: pd.DataFrame, path: str | Path, title: str = "") -> None:
    """Rows of `moesim.study.step.offload.compare_policies` as two panels: share of touched experts that were in HBM,
    and milliseconds a step in which the mean rank waits for copies."""
    figure, (hits, stall) = new_figure(11, 4.2, columns=2)
    for row in table.to_dict("records"):
        layers = pd.DataFrame(row["layers"])
        style = {"color": COLOURS.get(row["cache"], "#777777"), "linestyle": STYLES.get(row["prefetch"], "-.")}
        label = row["cache"] if row["prefetch"] == "none" else f"{row['cache']}, {row['prefetch']}"
        hits.plot(layers["layer"], layers["hit_rate"], label=label, **style)
        stall.plot(layers["layer"], layers["stall_s"] * 1e3, **style)
    hits.set(xlabel="layer", ylabel="hits / experts touched", ylim=(0, 1.02), title=title)
    stall.set(xlabel="layer", ylabel="stall, ms a step", title="waiting for copies")
    for axes in (hits, stall):
        axes.title.set_fontsize(10)
        axes.xaxis.get_major_locator().set_params(integer=True)
    stall.set_ylim(bottom=0)
    figure.legend(ncols=4, loc="outside lower center", fontsize=8)
    save_figure(figure, path)
