"""Pictures of a placement study: who computes what under each policy, and what it costs to get there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moesim.files import write_table, write_text
from moesim.report.figures.canvas import new_figure, save_figure
from moesim.study.placing.place import PlacementStudy, place_json

_MOST_PANELS = 4


def write_placement_report(study: PlacementStudy, folder: str | Path) -> list[Path]:
    """Heat maps before and after, the trade-off, and the table as CSV and JSON."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("rank_load.png", "tradeoff.png", "policies.csv", "placement.json")]
    draw_rank_load(study, written[0])
    draw_tradeoff(study, written[1])
    write_table(written[2], study.table)
    write_text(written[3], json.dumps(place_json(study), ensure_ascii=False, indent=2) + "\n")
    return written


def draw_rank_load(study: PlacementStudy, path: str | Path) -> None:
    """Tokens [moe_layer, rank] of the judged step against the layer's mean: the first policy, then the best others."""
    first, *others = study.judged
    steps = dict(zip(study.table["name"], study.table["step_time_s"], strict=True))
    shown = [first, *sorted(others, key=lambda each: steps[each.name])[: _MOST_PANELS - 1]]
    relative = [each.rank_load / np.maximum(each.rank_load.mean(axis=1, keepdims=True), 1e-300) for each in shown]
    most = max(float(load.max()) for load in relative)
    figure, panels = new_figure(3.2 * len(shown) + 1, 4.2, columns=len(shown))
    for axes, each, load in zip(panels, shown, relative, strict=True):
        image = axes.imshow(load, aspect="auto", cmap="magma", vmin=0, vmax=most, interpolation="nearest")
        peak = load.max(axis=1).mean()
        axes.set_title(f"{each.name}\nhottest {peak:.2f}× the mean", fontsize=9)
        axes.set(xlabel="expert-parallel rank", ylabel="MoE layer" if each is first else "")
    figure.colorbar(image, ax=list(panels), label="tokens / mean of the layer")
    save_figure(figure, path)


def draw_tradeoff(study: PlacementStudy, path: str | Path) -> None:
    """Left: step time with its interval; right: bytes between servers, and bytes of experts that move."""
    table = study.table
    rows = np.arange(len(table))[::-1]
    figure, (steps, sizes) = new_figure(10.5, 1.2 + 0.42 * len(table), columns=2)
    middle = table["step_time_s"].to_numpy() * 1e3
    around = np.abs(np.array([table["step_time_low_s"], table["step_time_high_s"]]) * 1e3 - middle)
    steps.barh(rows, middle, 0.6, color="#5b8db8", xerr=around, error_kw={"ecolor": "#455a64", "elinewidth": 1})
    if "other_step_time_s" in table:
        other = study.workloads.others[0].name
        steps.plot(table["other_step_time_s"] * 1e3, rows, "D", color="#c4572e", markersize=4, label=f"on {other}")
        steps.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    steps.set_yticks(rows, table["name"], fontsize=8)
    steps.set(xlabel=f"ms a step on the {study.workloads.judged.name}")
    height = 0.36
    sizes.barh(
        rows + height / 2, table["cross_node_bytes"] / 1e9, height, color="#e0a030", label="between servers, a step"
    )
    sizes.barh(
        rows - height / 2, table["rebalance_bytes"] / 1e9, height, color="#8e4585", label="moved by a re-balancing"
    )
    sizes.set_yticks(rows, [""] * len(rows))
    sizes.set(xlabel="GB")
    sizes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    save_figure(figure, path)
