"""The report of a service through weeks of failures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.training_weeks import percent
from moesim.report.html.words import assumptions, sentence, source
from moesim.report.service import by_time
from moesim.spec.reading.loading import Document
from moesim.spec.studies.resilience_scenario import ServiceRun
from moesim.study.reliability.service_runs import ServiceResult
from moesim.units import format_long, format_seconds

_NONE = "–"
_LATENCIES = (
    ("ttft_p50_s", "TTFT p50"),
    ("ttft_p99_s", "TTFT p99"),
    ("tpot_p50_s", "TPOT p50"),
    ("tpot_p99_s", "TPOT p99"),
)


def service_weeks_page(document: Document, result: ServiceResult) -> Page:
    """What users get while servers fail, over weeks and through one failure. document: the scenario that was run."""
    metrics = result.metrics
    return Page(
        title=f"{metrics['servers']} servers through failures: {metrics['scenario']}",
        asked=f"What do users get while servers fail? {sentence(metrics['description'])}",
        answer=_answer(metrics),
        sure=_sure(metrics),
        why=_why(metrics),
        headline=tuple(_headline(metrics)),
        sections=(*_failure(result), _states(result), *assumptions(document, document.check(ServiceRun))),
        source=source(metrics, f"scenario {metrics['scenario']}"),
    )


def _answer(metrics: dict) -> str:
    return (
        f"{metrics['goodput_share']:.2%} of requests are good over all states; a server is up "
        f"{metrics['availability']['mean']:.3%} of the time, all are {metrics['all_up']['mean']:.2%} of it."
    )


def _sure(metrics: dict) -> str:
    return (
        f"All servers up {percent(metrics['all_up'])}, over {metrics['seeds']} runs with failures of their own. "
        "Latencies are those of the serving model and carry its intervals (moesim serve)."
    )


def _why(metrics: dict) -> str:
    happened = ", ".join(f"{count:.1f} × {name}" for name, count in metrics["failures"].items()) or "nothing fails"
    without, one = metrics["without_rank"], metrics["one_failure"]
    told = f"A run has {happened}. In one failure a server is down for {format_long(one['down_s'])}"
    if without["slowdown"] > 1:
        told += (
            f" and then goes on without a rank for {format_long(one['slowed_s'])}, its steps {without['slowdown']:.3f}"
        )
        told += " × as long"
        if without["dropped_share"]:
            told += f" and {without['dropped_share']:.2%} of token-expert pairs dropped"
    return f"{told}; {one['moved']} requests move to other servers."


def _headline(metrics: dict) -> Iterator[Figure]:
    yield Figure("good requests", f"{metrics['goodput_share']:.2%}", "over all states")
    up = metrics["all_up"]
    yield Figure("all servers up", f"{up['mean']:.2%}", f"{up['p10']:.2%} – {up['p90']:.2%}, 80 % of runs")
    before, during = metrics["one_failure"]["before"], metrics["one_failure"]["during"]
    for key, name in (("ttft_p99_s", "p99 TTFT in a failure"), ("tpot_p99_s", "p99 TPOT in a failure")):
        if during.get(key) is not None and before.get(key) is not None:
            yield Figure(name, format_seconds(during[key]), f"{format_seconds(before[key])} before")
    lost = metrics["lost_device_hours"]
    yield Figure("device-hours lost", f"{lost['mean']:,.0f}", f"{lost['p10']:,.0f} – {lost['p90']:,.0f}")


def _failure(result: ServiceResult) -> Iterator[Section]:
    for column, unit, scale in (("ttft_s", "s", 1.0), ("tpot_s", "ms", 1e3)):
        name = column.removesuffix("_s").upper()
        drawn = plots.figure(legend={"orientation": "h", "y": 1.1})
        for percentile, colour in ((50, plots.PALETTE[0]), (99, plots.PALETTE[1])):
            at, line = by_time(result, column, percentile)
            drawn.add_scatter(
                x=at, y=np.asarray(line) * scale, name=f"p{percentile}", mode="lines", line={"color": colour},
                hovertemplate=f"submitted at %{{x:.1f}} s: %{{y:.4g}} {unit}<extra></extra>",
            )  # fmt: skip
        for outage in result.outages:
            colour, label = (plots.PALETTE[4], "slowed") if outage.slowdown else (plots.PALETTE[5], "down")
            end = min(outage.until_s, float(at[-1]))
            drawn.add_vrect(
                x0=outage.at_s, x1=end, fillcolor=colour, opacity=0.2, line_width=0, annotation={"text": label}
            )
        drawn.update_xaxes(title="submitted at, s")
        drawn.update_yaxes(title=f"{name}, {unit}", rangemode="tozero")
        yield Section(f"{name} through one failure", "By when requests were submitted; the outage is shaded.", drawn)
    rows = [(part, *_row(result.metrics["one_failure"][part])) for part in ("before", "during", "after")]
    yield Section("One failure in figures", table=pd.DataFrame(rows, columns=["requests", *_columns()]))


def _states(result: ServiceResult) -> Section:
    rows = [(row["up"], row["slowed"], f"{row['share']:.4%}", *_row(row)) for row in result.metrics["states"]]
    drawn = plots.figure()
    states = result.states
    names = [f"{row.up} up" + (f", {row.slowed} slowed" if row.slowed else "") for row in states.itertuples()]
    drawn.add_bar(
        x=states["share"], y=names, orientation="h", marker={"color": plots.PALETTE[0]},
        customdata=states["good_share"],
        hovertemplate="%{y}: %{x:.4%} of time, %{customdata:.1%} of requests good<extra></extra>",
    )  # fmt: skip
    drawn.update_xaxes(title="share of time", type="log")
    drawn.update_yaxes(autorange="reversed")
    table = pd.DataFrame(rows, columns=["up", "slowed", "of time", *_columns()])
    return Section("States over the weeks", "Each is served for itself.", drawn, table, height=140 + 30 * len(names))


def _columns() -> tuple[str, ...]:
    return (*(name for _, name in _LATENCIES), "good", "number")


def _row(found: dict) -> tuple[str, ...]:
    """Cells of `_columns`. A state without any server up has no requests that were judged, and none is good."""
    told = (format_seconds(found[key]) if found.get(key) is not None else _NONE for key, _ in _LATENCIES)
    judged = found.get("requests")
    good = _NONE if judged == 0 else f"{found['good_share']:.1%}"
    return (*told, good, _NONE if judged is None else f"{judged:,.0f}")
