"""The report of a served load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.words import LEVEL, assumptions, between, provenance, sentence, source
from moesim.study.serving_load.serve import ServeResult
from moesim.units import format_seconds

_POINTS = 800  # of a line
_PANELS = (  # column of a journal, what it is
    ("waiting", "waiting"),
    ("total", "decoding"),
    ("kv_share", "KV cache in use"),
    ("uneven", "busiest rank / mean"),
)
_LEVELS = ("mean", "p50", "p90", "p95", "p99")


def serving_page(result: ServeResult) -> Page:
    """What users of a served model get, and what the servers go through."""
    metrics = result.metrics
    return Page(
        title=metrics["title"],
        asked=f"What do users get under this load? {sentence(metrics['description'])}",
        answer=_answer(metrics),
        sure=_sure(metrics),
        why=_why(metrics),
        headline=tuple(_headline(metrics)),
        sections=(
            *_latencies(result),
            *_queues(result),
            _servers(metrics),
            *assumptions(result.assembly.document, result.assembly.scenario),
            provenance(metrics["provenance"]),
        ),
        source=source(metrics, f"scenario {metrics['scenario']}"),
    )


def _answer(metrics: dict) -> str:
    told = ""
    if metrics["stopped"]:
        told = f"The run stopped ({metrics['stopped']}), and what follows is partial. "
    told += f"{metrics['requests']['finished']:,} requests finish at {metrics['requests_per_s']:.2f} requests/s"
    if metrics["ttft_s"] and metrics["tpot_s"]:
        told += f", with a median TTFT of {format_seconds(metrics['ttft_s']['p50'])} (p99 "
        told += f"{format_seconds(metrics['ttft_s']['p99'])}) and TPOT of {format_seconds(metrics['tpot_s']['p50'])}"
        told += f" (p99 {format_seconds(metrics['tpot_s']['p99'])})"
    if good := metrics["goodput"]:
        slo = f"TTFT ≤ {format_seconds(good['ttft_s'])} and TPOT ≤ {format_seconds(good['tpot_s'])}"
        told += f"; {good['share']:.1%} of them stay within {slo}, a goodput of {good['requests_per_s']:.2f} requests/s"
    return f"{told}."


def _sure(metrics: dict) -> str:
    spans = [
        f"mean {name} {between(metrics[key]['mean_low'], metrics[key]['mean_high'])}"
        for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"))
        if metrics[key]
    ]
    told = f"{'; '.join(spans)}, by errors on published serving runs that were not fitted. " if spans else ""
    return f"{told}Costs: {metrics['provenance']['cost models']}."


def _why(metrics: dict) -> str:
    busy = [server for server in metrics["servers"] if server["steps"]]
    if not busy:
        return "No server ran a step."
    mean = {key: float(np.mean([server[key] for server in busy])) for key in busy[0]}
    full = max(server["peak_kv_share"] for server in busy)
    return (
        f"Servers are busy {mean['busy_share']:.0%} of the time with a mean batch of {mean['mean_batch']:.1f}; on "
        f"average {mean['mean_waiting']:.1f} requests wait for their first token, {mean['most_waiting']:.0f} at most. "
        f"The KV cache fills up to {full:.0%}, and the busiest attention rank holds "
        f"{mean['busiest_rank_over_mean']:.2f} × the mean batch."
    )


def _headline(metrics: dict) -> Iterator[Figure]:
    for name, key in (("mean TTFT", "ttft_s"), ("mean TPOT", "tpot_s")):
        if found := metrics[key]:
            yield Figure(name, format_seconds(found["mean"]), between(found["mean_low"], found["mean_high"]))
    rate = f"{metrics['output_tokens_per_s_per_device']:,.0f} tokens/s"
    yield Figure("output per device", rate, f"{metrics['output_tokens_per_s']:,.0f} tokens/s on {metrics['devices']}")
    if good := metrics["goodput"]:
        yield Figure("goodput", f"{good['requests_per_s']:.2f} requests/s", f"{good['share']:.1%} of requests")


def _latencies(result: ServeResult) -> Iterator[Section]:
    from plotly.subplots import make_subplots

    metrics, table = result.metrics, result.table
    done = table[(table["status"] == "finished") & ~table["warmup"]]
    drawn = make_subplots(1, 2, horizontal_spacing=0.08, figure=plots.figure(legend={"orientation": "h", "y": -0.25}))
    for column, (name, key, unit, scale) in enumerate((("TTFT", "ttft_s", "s", 1), ("TPOT", "tpot_s", "ms", 1e3)), 1):
        values = np.sort(done[key].dropna().to_numpy()) * scale
        if not values.size:
            continue
        level = np.linspace(0, 1, min(_POINTS, values.size))
        hover = f"%{{y:.1%}} of requests have a {name} of at most %{{x:.4g}} {unit}<extra></extra>"
        drawn.add_scatter(
            name=name, x=np.quantile(values, level), y=level, line={"color": plots.PALETTE[column - 1]},
            hovertemplate=hover, row=1, col=column,
        )  # fmt: skip
        drawn.update_xaxes(title=f"{name}, {unit}", rangemode="tozero", row=1, col=column)
        if good := metrics["goodput"]:
            line = {"color": "#b03060", "dash": "dash"}
            drawn.add_vline(x=good[key] * scale, line=line, annotation_text="SLO", row=1, col=column)
    drawn.update_yaxes(tickformat=".0%", row=1)
    rows = [
        (name, *(format_seconds(metrics[key][level]) for level in _LEVELS), _span(metrics[key]))
        for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("end to end", "latency_s"))
        if metrics[key]
    ]
    cells = pd.DataFrame(rows, columns=["", *_LEVELS, f"mean, {LEVEL}"])
    yield Section("Latencies", "Share of requests that are at most so slow.", drawn, cells, height=400)


def _span(found: dict) -> str:
    if "mean_low" not in found:
        return ""
    return f"{format_seconds(found['mean_low'])} – {format_seconds(found['mean_high'])}"


def _queues(result: ServeResult) -> Iterator[Section]:
    from plotly.subplots import make_subplots

    base = plots.figure(legend={"orientation": "h", "y": -0.08}, hovermode="x unified")
    drawn = make_subplots(4, 1, shared_xaxes=True, vertical_spacing=0.03, figure=base)
    for server, journal in enumerate(result.run.journals):
        rows = journal.table()
        if not rows["start_s"].size:
            continue
        grid = np.linspace(rows["start_s"][0], rows["start_s"][-1] + rows["seconds"][-1], _POINTS)
        at = np.clip(np.searchsorted(rows["start_s"], grid, side="right") - 1, 0, None)
        for panel, (column, label) in enumerate(_PANELS, 1):
            drawn.add_scatter(
                name=f"server {server}", legendgroup=f"{server}", showlegend=panel == 1,
                x=np.round(grid, 4), y=rows[column][at].astype(np.float32), mode="lines", row=panel, col=1,
                line={"width": 1.2, "color": plots.PALETTE[server % len(plots.PALETTE)]},
                hovertemplate=f"{label} %{{y:.3g}}",
            )  # fmt: skip
    for panel, (_, label) in enumerate(_PANELS, 1):
        drawn.update_yaxes(title=label, rangemode="tozero", row=panel, col=1)
    drawn.update_xaxes(title="s", row=4, col=1)
    yield Section("Queue, batch and cache over time", "A colour a server.", drawn, height=760)


def _servers(metrics: dict) -> Section:
    rows = [
        {
            "server": str(number),
            "steps": f"{server['steps']:,}",
            "busy": f"{server['busy_share']:.0%}",
            "mean batch": f"{server['mean_batch']:.1f}",
            "waiting": f"{server['mean_waiting']:.1f}",
            "most waiting": f"{server['most_waiting']:.0f}",
            "KV peak": f"{server['peak_kv_share']:.0%}",
            "busiest rank / mean": f"{server['busiest_rank_over_mean']:.2f}",
        }
        for number, server in enumerate(metrics["servers"])
        if server["steps"]
    ]
    return Section("Servers", table=pd.DataFrame(rows))
