"""Pictures of a simulated step: the timeline of one layer, where the time goes, and which experts are hot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from moesim.engine.timeline import Timeline, Track
from moesim.network.transfer import Transfer
from moesim.report.figures.canvas import new_figure, save_figure

# One colour a kind of operation, the same in every picture. Communication is warm, compute is cool.
COLOURS = {
    "norm": "#9aa5b1",
    "projections": "#5b8db8",
    "attention": "#2f5d8a",
    "dense_ffn": "#7a6ca8",
    "router": "#8fbcbb",
    "shared_expert": "#6aa84f",
    "experts": "#2e7d4f",
    "dispatch": "#e0a030",
    "combine": "#c4572e",
    "all_reduce": "#b03060",
    "reduce_scatter": "#d17fa0",
    "all_gather": "#8e4585",
    "context_exchange": "#9c6f2c",
    "expert_gather": "#c9a227",
    "expert_scatter": "#e3cf8b",
    "send": "#5f7f9f",
    "receive": "#b8c7d6",
    "head": "#455a64",
    "fetch": "#d62f2f",
    "prefetch": "#e8998d",
}
Bottleneck = Callable[[Transfer], tuple[str, str] | None]
MOST_RANKS = 96  # rows of a timeline that still read


def draw_layer_timeline(
    timeline: Timeline, layer: int, path: str | Path, title: str = "", bottleneck: Bottleneck = lambda _: None
) -> None:
    """One layer as it ran on every rank that has it: a row a rank, communication in the lower part of the row.

    bottleneck: names the ends of the link that a collective waits for, which the legend then shows.
    """
    track, rows, shown = layer_rows(timeline, layer)
    unit, ticks = ("ms", 1e9) if (track.end[rows].max() - track.start[rows].min()) > 1e10 else ("µs", 1e6)
    origin = track.start[rows].min()
    figure, (axes,) = new_figure(10, 1.6 + 0.085 * max(shown.size, 12))
    for index in rows:
        op = track.program.ops[index]
        begin = (track.start[index, shown] - origin) / ticks
        length = (track.end[index, shown] - track.start[index, shown]) / ticks
        # Compute fills the row; communication lies over its lower part, so that what it hides behind stays visible.
        offset, height, above = (0.04, 0.92, 1) if op.stream == "compute" else (0.54, 0.42, 2)
        bottom = np.arange(shown.size) + offset
        axes.barh(bottom, length, height, left=begin, align="edge", color=_colour(op.kind), linewidth=0, zorder=above)
    axes.set(xlabel=f"{unit} since the layer began", ylabel="rank", ylim=(shown.size, 0), title=title)
    step = max(1, shown.size // 12)
    axes.set_yticks(np.arange(0, shown.size, step) + 0.5, track.program.ranks[shown[::step]])
    _legend(axes, track, rows, bottleneck)
    save_figure(figure, path)


def layer_rows(timeline: Timeline, layer: int) -> tuple[Track, list[int], np.ndarray]:
    """(track, operations of the layer, ranks of the track to show: at most `MOST_RANKS`, evenly chosen).

    Of several steps or micro-batches that run the layer, the last.
    """
    track = next(track for track in timeline.tracks if any(op.layer == layer for op in track.program.ops))
    ends = [index for index, op in enumerate(track.program.ops) if op.kind in ("head", "send")]
    first = ends[-2] + 1 if len(ends) > 1 else 0
    rows = [index for index, op in enumerate(track.program.ops) if op.layer == layer and index >= first]
    return track, rows, np.unique(np.linspace(0, track.program.ranks.size - 1, MOST_RANKS).astype(int))


def draw_breakdown(timeline: Timeline, path: str | Path, title: str = "") -> None:
    """Seconds of each kind of operation, mean over ranks; of collectives the part that waits for others is hatched."""
    kinds = dict(sorted(timeline.by_kind_s().items(), key=lambda item: item[1]))
    figure, (axes,) = new_figure(8, 0.8 + 0.36 * len(kinds))
    milliseconds = np.array(list(kinds.values())) * 1e3
    axes.barh(list(kinds), milliseconds, color=[_colour(kind) for kind in kinds])
    waiting = [timeline.waiting_s().get(kind, 0.0) * 1e3 for kind in kinds]
    hatched = {"color": "none", "hatch": "////", "edgecolor": "white", "linewidth": 0}
    axes.barh(list(kinds), waiting, left=milliseconds - waiting, **hatched)
    for row, value in enumerate(milliseconds):
        axes.text(value, row, f" {value:.2f} ms", va="center", fontsize=8)
    axes.set(xlabel=f"ms a step, mean over ranks (the step takes {timeline.makespan_s * 1e3:.2f} ms)", title=title)
    axes.margins(x=0.14)
    save_figure(figure, path)


def draw_expert_load(load: np.ndarray, path: str | Path, title: str = "") -> None:
    """Load [moe_layer, expert] against the layer's mean, as a heat map."""
    relative = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-300)
    figure, (axes,) = new_figure(10, 4.2)
    image = axes.imshow(relative, aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
    axes.set(xlabel="expert", ylabel="MoE layer", title=title)
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, label="tokens / mean of the layer")
    save_figure(figure, path)


def draw_traffic(traffic: np.ndarray, path: str | Path, title: str = "") -> None:
    """Bytes [source rank, destination rank] as a heat map in MB."""
    figure, (axes,) = new_figure(6.6, 5.6)
    megabytes = np.where(np.eye(len(traffic), dtype=bool), np.nan, traffic / 1e6)  # own tokens stay at home
    image = axes.imshow(megabytes, cmap="viridis", interpolation="nearest")
    axes.set(xlabel="to rank", ylabel="from rank", title=title)
    axes.title.set_fontsize(10)
    figure.colorbar(image, ax=axes, label="MB a step")
    save_figure(figure, path)


def _colour(kind: str) -> str:
    return COLOURS.get(kind, "#777777")


def _legend(axes, track: Track, rows: list[int], bottleneck: Bottleneck) -> None:
    from matplotlib.patches import Patch

    ops = [track.program.ops[index] for index in rows]
    kinds: dict[str, list[str]] = {op.kind: [] for op in ops}
    for op in ops:
        if op.transfer is not None and (link := bottleneck(op.transfer)):
            kinds[op.kind].append(" → ".join(link))
    handles = [
        Patch(color=_colour(kind), label="\n".join([kind, *(f"slowest: {link}" for link in dict.fromkeys(links))]))
        for kind, links in kinds.items()
    ]
    axes.figure.legend(handles=handles, ncols=min(len(kinds), 7), loc="outside lower center", fontsize=8)
