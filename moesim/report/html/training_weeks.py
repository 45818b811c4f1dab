"""The report of a training run over weeks, with its failures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.words import assumptions, sentence, source
from moesim.report.resilience import COLOURS
from moesim.resilience.process import STATES, RunLog
from moesim.spec.reading.loading import Document
from moesim.spec.studies.resilience_scenario import TrainingRun
from moesim.study.reliability.training_runs import ResilienceResult
from moesim.units import format_bytes, format_long

_RUNS = "80 % of runs"


def training_weeks_page(document: Document, result: ResilienceResult) -> Page:
    """How much of weeks becomes work, and what takes the rest. document: the scenario that was run."""
    metrics = result.metrics
    return Page(
        title=f"{metrics['step']['devices']:,} devices through failures: {metrics['scenario']}",
        asked=f"How much of the time becomes training? {sentence(metrics['description'])}",
        answer=_answer(metrics),
        sure=_sure(metrics),
        why=_why(metrics),
        headline=tuple(_headline(metrics)),
        sections=(
            _spent(result),
            *_intervals(result),
            *_first_run(result.first),
            _failures(metrics),
            *assumptions(document, document.check(TrainingRun)),
        ),
        source=source(metrics, f"scenario {metrics['scenario']}"),
    )


def percent(spread: dict[str, float]) -> str:
    """A mean over runs with its interval."""
    return f"{spread['mean']:.2%} ({spread['p10']:.2%} – {spread['p90']:.2%}, {_RUNS})"


def _answer(metrics: dict) -> str:
    told = "" if metrics["complete"] else "The study was interrupted, and what follows is partial. "
    told += f"{metrics['goodput']['mean']:.2%} of the wall time becomes training: "
    told += f"{metrics['tokens_per_s']['mean']:,.0f} tokens/s over all"
    if wall := metrics["wall_s"]:
        told += f", done after {format_long(wall['mean'])} ({format_long(wall['p10'])} – {format_long(wall['p90'])})"
    lost = metrics["lost_device_hours"]["mean"]
    return f"{told}. {lost:,.0f} device-hours are lost."


def _sure(metrics: dict) -> str:
    told = f"Goodput {percent(metrics['goodput'])} over {metrics['seeds']} runs with failures of their own"
    if metrics["goodput_by_daly"] is not None:
        told += f"; Daly's formula, with spares at hand and no stragglers, says {metrics['goodput_by_daly']:.2%}"
    return f"{told}. The step: {metrics['step']['source']}."


def _why(metrics: dict) -> str:
    parts = {state: share for state, share in metrics["spent_share"].items() if state != "work" and share > 0}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    took = ", ".join(f"{state} {share:.2%}" for state, share in largest) or "nothing"
    checkpoint = metrics["checkpoint"]
    stops = "Nothing stops the job."
    if metrics["mtbf_s"] is not None:
        stops = f"The job stops every {format_long(metrics['mtbf_s'])}."
    return (
        f"{stops} It saves {format_bytes(checkpoint['bytes'])} after "
        f"every {format_long(checkpoint['interval_s'])} of work. What is not work goes to {took}."
    )


def _headline(metrics: dict) -> Iterator[Figure]:
    goodput = metrics["goodput"]
    yield Figure("goodput", f"{goodput['mean']:.2%}", f"{goodput['p10']:.2%} – {goodput['p90']:.2%}, {_RUNS}")
    yield Figure("availability", f"{metrics['availability']['mean']:.2%}", "of the time the job runs")
    yield Figure("stopped every", format_long(metrics["mtbf_s"]), "on average")
    checkpoint = metrics["checkpoint"]
    note = f"Daly {format_long(checkpoint['daly_s'])}" if checkpoint["daly_s"] is not None else ""
    yield Figure("checkpoint every", format_long(checkpoint["interval_s"]), note)
    lost = metrics["lost_device_hours"]
    yield Figure("device-hours lost", f"{lost['mean']:,.0f}", f"{lost['p10']:,.0f} – {lost['p90']:,.0f}")


def _spent(result: ResilienceResult) -> Section:
    table = result.table.sort_values("goodput", ascending=False)
    drawn = plots.figure(barmode="stack", legend={"orientation": "h", "y": 1.1})
    for state in STATES[1:]:
        share = (table[f"{state}_s"] / table["wall_s"]).to_numpy()
        if share.any():
            drawn.add_bar(
                name=state, x=np.arange(1, len(table) + 1), y=share, marker={"color": COLOURS[state]},
                hovertemplate=f"run %{{x}}: {state} %{{y:.3%}}<extra></extra>",
            )  # fmt: skip
    drawn.update_xaxes(title="runs, best first")
    drawn.update_yaxes(title="share of wall time that is not work", tickformat=".1%")
    rows = [(state, f"{share:.3%}") for state, share in result.metrics["spent_share"].items()]
    told = "Every second of every run counts once; lost: work since the last safe checkpoint."
    return Section("Where the time goes", told, drawn, pd.DataFrame(rows, columns=["state", "share, mean of runs"]))


def _intervals(result: ResilienceResult) -> Iterator[Section]:
    curve, checkpoint = result.curve, result.metrics["checkpoint"]
    if curve.empty:
        return
    hours = curve["interval_s"] / 3600
    drawn = plots.figure(legend={"orientation": "h", "y": 1.1})
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    drawn.add_scatter(x=hours, y=curve["high"], showlegend=False, **band)
    drawn.add_scatter(x=hours, y=curve["low"], fill="tonexty", fillcolor="rgba(47,93,138,0.2)", name=_RUNS, **band)
    hover = "every %{x:.3g} h: %{y:.3%}<extra></extra>"
    drawn.add_scatter(
        x=hours, y=curve["goodput"], name="simulated", mode="lines+markers", line={"color": plots.PALETTE[0]},
        hovertemplate=hover,
    )  # fmt: skip
    ends = [curve["low"].min(), curve["high"].max()]
    for name, colour, dash in (("young_s", plots.PALETTE[4], "solid"), ("daly_s", plots.PALETTE[1], "dot")):
        optimum = f"{name.removesuffix('_s').title()}: {format_long(checkpoint[name])}"
        drawn.add_scatter(
            x=[checkpoint[name] / 3600] * 2, y=ends, name=optimum, mode="lines", line={"color": colour, "dash": dash},
            hoverinfo="name",
        )  # fmt: skip
    drawn.update_xaxes(title="work between checkpoints, h", type="log")
    drawn.update_yaxes(title="goodput", tickformat=".1%")
    yield Section("Goodput against the checkpoint interval", "With the optima of Young's and of Daly's formula.", drawn)


def _first_run(log: RunLog | None) -> Iterator[Section]:
    if log is None:
        return
    drawn = plots.figure(barmode="overlay", showlegend=False)
    ends = [*(at for at, _ in log.history[1:]), log.wall_s]
    for state in (state for state in STATES if any(name == state for _, name in log.history)):
        spans = [(at, end) for (at, name), end in zip(log.history, ends, strict=True) if name == state]
        begins = [at / 86400 for at, _ in spans]
        lengths = [(end - at) / 86400 for at, end in spans]
        drawn.add_bar(
            name=state, orientation="h", y=[state] * len(spans), base=begins, x=lengths,
            marker={"color": COLOURS[state], "line": {"width": 0.5, "color": COLOURS[state]}},
            customdata=[format_long(end - at) for at, end in spans],
            hovertemplate=f"{state} from day %{{base:.3f}}, for %{{customdata}}<extra></extra>",
        )  # fmt: skip
    drawn.update_xaxes(title="days")
    yield Section("The first run", "What the job does when.", drawn, height=330)


def _failures(metrics: dict) -> Section:
    rows = [(name, f"{count:.2f}") for name, count in metrics["failures"].items()]
    checkpoint = metrics["checkpoint"]
    told = (
        f"A checkpoint stops the job for {format_long(checkpoint['pause_s'])}, is safe after "
        f"{format_long(checkpoint['write_s'])} and loads in {format_long(checkpoint['load_s'])}."
    )
    return Section("Failures", told, table=pd.DataFrame(rows, columns=["of", "a run, mean"]))
