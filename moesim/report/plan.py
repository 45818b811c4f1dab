"""Everything that ``moesim plan --out`` writes: every candidate, the frontier, what would help."""

from __future__ import annotations

import json
from pathlib import Path

from moesim.files import write_table, write_text
from moesim.report.figures.canvas import new_figure, save_figure
from moesim.study.planning.plan import PlanResult
from moesim.study.planning.training_plan import TrainingPlanResult

_COLOURS = ("#2f5d8a", "#c4572e", "#6aa84f", "#8a6fb0", "#e0a030", "#b03a48")


def write_plan_report(result: PlanResult, folder: str | Path) -> list[Path]:
    """Pictures (PNG), the candidates (Parquet) and the metrics (JSON). Returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "plan.png", folder / "candidates.parquet", folder / "metrics.json"]
    draw_plan(result, written[0])
    write_table(written[1], result.candidates)
    write_text(written[2], json.dumps(result.metrics, indent=2) + "\n")
    return written


def draw_plan(result: PlanResult, path: str | Path) -> None:
    """Left: tokens/s/device against tokens/s/user of every candidate that meets the objectives, the frontier joined.
    Right: what a tenth more of something would gain."""
    figure, (frontier, gains) = new_figure(12, 4.6, columns=2)
    table = result.candidates[result.candidates["meets"]] if len(result.candidates) else result.candidates
    for colour, (hardware, rows) in zip(_COLOURS, table.groupby("hardware") if len(table) else (), strict=False):
        frontier.scatter(
            rows["tokens_per_s_per_user"], rows["tokens_per_s_per_device"], s=14, color=colour, label=hardware
        )
    if len(table):
        edge = table[table["efficient"]].sort_values("tokens_per_s_per_user")
        frontier.plot(edge["tokens_per_s_per_user"], edge["tokens_per_s_per_device"], color="#444", linewidth=0.8)
        best = table.iloc[0]
        frontier.annotate(
            "recommended",
            (best["tokens_per_s_per_user"], best["tokens_per_s_per_device"]),
            textcoords="offset points", xytext=(8, 8), fontsize=8,
        )  # fmt: skip
        frontier.legend(fontsize=8)
    frontier.set(xlabel="tokens/s a user", ylabel="output tokens/s a device", title=result.metrics["plan"])
    frontier.set_ylim(bottom=0)
    if len(result.sensitivity):
        rows = result.sensitivity.iloc[1:].sort_values("gain")
        gains.barh(rows["knob"], rows["gain"] * 100, color="#2f5d8a")
        gains.axvline(0, color="#444", linewidth=0.8)
        gains.set(xlabel="% more requests/s within the objectives")
    save_figure(figure, path)


def write_training_plan_report(result: TrainingPlanResult, folder: str | Path) -> list[Path]:
    """A picture of days and money (PNG), the alternatives (Parquet) and the metrics (JSON). Returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "training_plan.png", folder / "alternatives.parquet", folder / "metrics.json"]
    table = result.table.dropna(subset=["days"])
    figure, (days, money) = new_figure(10, 1.4 + 0.5 * len(result.table), columns=2)
    spread = [table["days"] - table["days_low"], table["days_high"] - table["days"]]
    days.barh(table["name"], table["days"], xerr=spread, color=_COLOURS[0], capsize=3)
    days.set(xlabel="days", title=f"{result.metrics['plan']}: {result.metrics['tokens']:.3g} tokens")
    money.barh(table["name"], table["usd"] / 1e6, color=_COLOURS[1])
    money.set(xlabel="MUSD", yticks=[])
    for axes in (days, money):
        axes.invert_yaxis()
    save_figure(figure, written[0])
    write_table(written[1], result.table)
    write_text(written[2], json.dumps(result.metrics, indent=2) + "\n")
    return written
