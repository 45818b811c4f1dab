"""Pictures of traces: who gets the tokens, how choices persist, and how traces differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.report.figures.canvas import new_figure, save_figure
from moesim.report.figures.step import draw_expert_load
from moesim.routing.health import Health
from moesim.study.inspection.trace_health import load_correlations

_COLOURS = ("#2f5d8a", "#c4572e", "#2e7d4f", "#8e4585", "#e0a030", "#455a64", "#5b8db8", "#b03060")


def write_trace_report(seen: Sequence[Health], folder: str | Path) -> list[Path]:
    """All pictures of one or several traces: load of each, then skew and dependence of all together."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    names = [each.name for each in seen]
    for number, each in enumerate(seen, start=1):
        alone = names.count(each.name) == 1  # files of one name may come from several folders
        path = folder / (f"{each.name}_load.png" if alone else f"{each.name}_{number}_load.png")
        draw_expert_load(each.load, path, title=_title(each))
        written.append(path)
    for name, draw in (("skew", draw_skew), ("dependence", draw_dependence)):
        path = folder / f"{name}.png"
        draw(seen, path)
        written.append(path)
    if len({each.load.shape for each in seen}) == 1 and len(seen) > 1:
        path = folder / "load_correlation.png"
        draw_load_correlation(seen, path)
        written.append(path)
    return written


def draw_skew(seen: Sequence[Health], path: str | Path) -> None:
    """Left: Lorenz curve, the share of tokens that the coldest experts have; right: hottest rank by number of ranks."""
    figure, (lorenz, ranks) = new_figure(10, 4.2, columns=2)
    lorenz.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for each, colour in zip(seen, _cycle(seen), strict=True):
        ordered = np.sort(each.load, axis=1) / each.load.sum(axis=1, keepdims=True)
        curve = np.concatenate([[0], np.cumsum(ordered, axis=1).mean(axis=0)])
        label = f"{each.name} (Gini {each.moments.gini:.2f})"
        lorenz.plot(np.linspace(0, 1, len(curve)), curve, _line(each), color=colour, label=label)
        counts, ratios = zip(*each.moments.hottest_rank.items(), strict=True)
        ranks.plot(counts, ratios, _line(each), color=colour, marker="o", markersize=4)
    lorenz.set(xlabel="share of the experts, coldest first", ylabel="share of the tokens", xlim=(0, 1), ylim=(0, 1))
    ranks.axhline(1, color="#bbbbbb", linewidth=1)
    ranks.set_xscale("log", base=2)
    ranks.set_xticks(_rank_counts(seen), [str(count) for count in _rank_counts(seen)])
    ranks.set(xlabel="expert-parallel ranks (contiguous experts)", ylabel="hottest rank / mean rank")
    lorenz.legend(fontsize=8)
    save_figure(figure, path)


def draw_dependence(seen: Sequence[Health], path: str | Path) -> None:
    """Left: autocorrelation of choices by lag; right: share of the next layer's choices foretold, and by popularity."""
    figure, (time, layers) = new_figure(10, 3.8, columns=2)
    for each, colour in zip(seen, _cycle(seen), strict=True):
        lags = each.moments.autocorrelation or {}
        time.plot(list(lags), list(lags.values()), _line(each), color=colour, marker="o", markersize=4, label=each.name)
    time.axhline(0, color="#bbbbbb", linewidth=1)
    time.set_xscale("log", base=2)
    time.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    time.set(xlabel="tokens apart", ylabel="correlation of an expert's choices")
    time.legend(fontsize=8)
    shown = [each for each in seen if each.moments.next_layer_hit is not None]
    places = np.arange(len(shown))
    layers.bar(
        places - 0.2, [each.moments.next_layer_hit for each in shown], 0.38, color="#2f5d8a", label="from the layer"
    )
    popularity = [each.moments.next_layer_popularity for each in shown]
    layers.bar(places + 0.2, popularity, 0.38, color="#9aa5b1", label="from popularity alone")
    layers.set_xticks(places, [each.name for each in shown], rotation=20, ha="right", fontsize=8)
    layers.set(ylabel="next layer's choices foretold", ylim=(0, 1))
    layers.legend(fontsize=8)
    save_figure(figure, path)


def draw_load_correlation(seen: Sequence[Health], path: str | Path) -> None:
    """Whether traces of one model keep the same experts hot: correlation of loads, pair by pair."""
    table = load_correlations(seen)
    figure, (axes,) = new_figure(1.6 + 0.9 * len(seen), 1.2 + 0.8 * len(seen), columns=1)
    image = axes.imshow(table.to_numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        shade = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(len(seen)), table.columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(seen)), table.index, fontsize=8)
    figure.colorbar(image, ax=axes, label="correlation of expert loads")
    save_figure(figure, path)


def _rank_counts(seen: Sequence[Health]) -> list[int]:
    """All numbers of ranks that any of the traces was measured at."""
    return sorted(set().union(*(each.moments.hottest_rank for each in seen)))


def _title(seen: Health) -> str:
    kind = "synthetic, " if seen.synthetic else ""
    ratio = seen.moments.max_over_mean
    return f"{seen.name} ({kind}{seen.tokens:,} tokens): hottest expert {ratio:.1f}x the mean"


def _line(seen: Health) -> str:
    """Synthetic traces are dashed: they often lie upon the trace they were fitted to."""
    return "--" if seen.synthetic else "-"


def _cycle(seen: Sequence[Health]) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(len(seen))]
