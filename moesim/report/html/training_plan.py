"""The report of a plan for a training run: days, money and energy of each alternative."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.words import assumptions, sentence, source
from moesim.spec.studies.plan_file import TrainingPlan
from moesim.study.planning.training_plan import TrainingPlanResult

_NEVER = "–"
_COLUMNS = {  # heading -> how a row tells it
    "train on": lambda row: row["name"],
    "devices": lambda row: f"{row['devices']:,}",
    "step, s": lambda row: f"{row['step_s']:.3g}",
    "days": lambda row: _days(row),
    "device-hours": lambda row: _whole(row["device_hours"]),
    "goodput": lambda row: f"{row['goodput']:.2%}",
    "MUSD": lambda row: _NEVER if row["days"] is None else f"{row['usd'] / 1e6:.3g}",
    "× cheapest": lambda row: _NEVER if row["days"] is None else f"{row['over_cheapest']:.2f}",
    "MWh": lambda row: _whole(row["mwh"]),
    "t CO2e": lambda row: _whole(row["tonnes_co2e"]),
    "largest loss": lambda row: f"{row['largest_loss']} {row['largest_loss_share']:.1%}",
}


def training_plan_page(result: TrainingPlanResult) -> Page:
    """Which alternative trains for least money, and what the others take."""
    metrics = result.metrics
    rows = metrics["alternatives"]
    done = [row for row in rows if row["days"] is not None]
    return Page(
        title=f"Training plan: {metrics['plan']}",
        asked=f"What does training on {metrics['tokens']:.4g} tokens take? {sentence(metrics['description'])}",
        answer=_answer(done),
        sure="Days hold the interval of the step's cost models and 80 % of runs with failures of their own; money and "
        "energy follow the mean.",
        why=" ".join(_why(row) for row in rows),
        headline=tuple(_headline(done[0])) if done else (),
        sections=(
            *_plots(done),
            *_table(rows),
            *_stopped(rows),
            *assumptions(result.document, result.document.check(TrainingPlan)),
        ),
        source=source(metrics, f"plan {metrics['plan']}"),
    )


def _days(row: dict) -> str:
    return "never" if row["days"] is None else f"{row['days']:.1f} ({row['days_low']:.1f} – {row['days_high']:.1f})"


def _whole(value: float | None) -> str:
    return _NEVER if value is None else f"{value:,.0f}"


def _answer(done: list[dict]) -> str:
    if not done:
        return "No alternative comes to an end."
    best = done[0]
    told = f"{best['name']} is the cheapest: {_days(best)} days, {best['device_hours']:,.0f} device-hours, "
    told += f"{best['usd'] / 1e6:.3g} MUSD."
    others = [
        f"{row['name']} takes {row['over_cheapest']:.2f} × the money and {row['days']:.1f} days" for row in done[1:]
    ]
    return told if not others else f"{told} {'; '.join(others)}."


def _why(row: dict) -> str:
    return (
        f"{row['name']}: a step takes {row['step_s']:.3g} s, {row['goodput']:.2%} of the time is work, and most of the "
        f"rest goes to {row['largest_loss']} ({row['largest_loss_share']:.1%})."
    )


def _headline(best: dict) -> Iterator[Figure]:
    yield Figure("days", f"{best['days']:.1f}", f"{best['days_low']:.1f} – {best['days_high']:.1f}, 80 % interval")
    yield Figure("device-hours", f"{best['device_hours']:,.0f}", f"{best['devices']:,} devices")
    yield Figure("MUSD", f"{best['usd'] / 1e6:.3g}", "spares included")
    if best["mwh"] is not None:
        note = f"{best['tonnes_co2e']:,.0f} t CO2e" if best["tonnes_co2e"] is not None else ""
        yield Figure("MWh", f"{best['mwh']:,.0f}", note)
    yield Figure("goodput", f"{best['goodput']:.2%}", f"{best['tokens_per_s']:,.0f} tokens/s")


def _plots(done: list[dict]) -> Iterator[Section]:
    if not done:
        return
    names = [row["name"] for row in done]
    columns = pd.DataFrame(done)[["days", "days_low", "days_high"]].to_numpy().T
    days = plots.bars_with_interval(names, *columns, "days", "days")
    days.update_xaxes(title="days")
    height = 160 + 44 * len(done)
    yield Section("Days", "With the 80 % interval.", days, height=height)
    money = plots.figure()
    money.add_bar(
        x=[row["usd"] / 1e6 for row in done], y=names, orientation="h", marker={"color": plots.PALETTE[1]},
        hovertemplate="%{y}: %{x:.3g} MUSD<extra></extra>",
    )  # fmt: skip
    money.update_xaxes(title="MUSD")
    money.update_yaxes(autorange="reversed")
    yield Section("Money", plot=money, height=height)


def _table(rows: list[dict]) -> Iterator[Section]:
    told = pd.DataFrame([{heading: tell(row) for heading, tell in _COLUMNS.items()} for row in rows])
    yield Section("Alternatives", "The cheapest first.", table=told)


def _stopped(rows: list[dict]) -> Iterator[Section]:
    stopped = [(row["name"], row["stopped"]) for row in rows if row["stopped"]]
    if stopped:
        yield Section("Stopped", table=pd.DataFrame(stopped, columns=["alternative", "why"]))
