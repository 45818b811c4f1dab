"""The report of one simulated step of inference."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.network.transfer import Transfer
from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.words import assumptions, between, provenance, sentence, source
from moesim.report.step import shown_layer
from moesim.study.comparison.differences import waiting_by_kind
from moesim.study.step.links import LinkLoad, bottleneck, hottest_links, link_load, traffic_matrix
from moesim.study.step.metrics import expert_load
from moesim.study.step.run import Result
from moesim.units import format_bytes, format_seconds

_MOST_RANKS = 160  # of a traffic matrix by rank; beyond, by server


def step_page(result: Result) -> Page:
    """What a step takes and why, with its timeline, loads and links."""
    metrics = result.metrics
    return Page(
        title=metrics["title"],
        asked=_asked(result),
        answer=_answer(metrics),
        sure=sure(metrics),
        why=why(metrics),
        headline=headline(metrics),
        sections=(
            *timing_sections(result),
            *_load_sections(result),
            *_link_sections(result),
            memory_section(metrics),
            *assumptions(result.document, result.assembly.scenario),
            provenance(metrics["provenance"]),
        ),
        source=source(metrics, f"scenario {metrics['scenario']}"),
    )


def _asked(result: Result) -> str:
    metrics, batch = result.metrics, result.assembly.batch
    changes = f" Changed: {', '.join(metrics['changes'])}." if metrics["changes"] else ""
    return f"How long does one {batch.phase} step take? {sentence(metrics['description'])}{changes}"


def _answer(metrics: dict) -> str:
    rate = f"{metrics['tokens_per_s']:,.0f} tokens/s, {metrics['tokens_per_s_per_device']:,.0f} per device"
    hbm = metrics["hbm"]
    share = metrics["hbm_bytes"] / hbm["capacity"]
    fits = f"It fills {share:.0%} of the HBM of the fullest rank"
    most = hbm.get("largest_batch")
    room = f"; up to {most:,} sequences per data-parallel rank would fit." if most else "."
    return f"A step takes {format_seconds(metrics['step_time_s'])}: {rate}. {fits}{room}"


def sure(metrics: dict) -> str:
    """The interval, the bounds, and what stands behind the cost models."""
    interval = f"{format_seconds(metrics['step_time_low_s'])} to {format_seconds(metrics['step_time_high_s'])}"
    bounds = f"{format_seconds(metrics['lower_bound_s'])} and {format_seconds(metrics['upper_bound_s'])}"
    return (
        f"In 80 % of cases the step takes {interval}, by the errors of the cost models on shapes they were not fitted "
        f"to ({metrics['provenance']['cost models']}). It lies between the bounds {bounds}: the busiest stream with "
        f"nothing in its way, and all operations one after another."
    )


def why(metrics: dict) -> str:
    """The longest operations, what waits, and the hot spots."""
    step = metrics["step_time_s"]
    longest = ", ".join(f"{kind} {value / step:.0%}" for kind, value in list(metrics["breakdown_s"].items())[:3])
    exposed = metrics["exposed_communication_s"] / step
    told = [f"Most of the step is {longest}. In {exposed:.0%} of it the mean rank computes nothing"]
    if metrics.get("waiting_s"):
        told[0] += f", and collectives wait {format_seconds(metrics['waiting_s'])} for late ranks and shared links"
    if rank := metrics.get("hottest_rank"):
        told.append(f"The hottest rank of a layer computes {rank['per_layer_over_mean']:.2f} × the mean of its layer")
    if expert := metrics.get("hottest_expert"):
        told.append(f"the hottest expert gets {expert['per_layer_over_mean']:.1f} × the mean")
    if link := metrics.get("hottest_link"):
        told.append(f"the hottest link, {link['from']} → {link['to']}, is {link['utilisation']:.0%} busy")
    first, *rest = told
    return f"{first}. {'; '.join(rest)}." if rest else f"{first}."


def headline(metrics: dict) -> tuple[Figure, ...]:
    """Step time with its interval, throughput, exposed communication, HBM."""
    step = metrics["step_time_s"]
    share = metrics["hbm_bytes"] / metrics["hbm"]["capacity"]
    interval = between(metrics["step_time_low_s"], metrics["step_time_high_s"])
    rate = f"{metrics['tokens_per_s_per_device']:,.0f} tokens/s"
    exposed = f"{metrics['exposed_communication_s'] / step:.1%} of the step"
    return (
        Figure("step time", format_seconds(step), interval),
        Figure("throughput per device", rate, f"{metrics['tokens_per_s']:,.0f} tokens/s in all"),
        Figure("exposed communication", format_seconds(metrics["exposed_communication_s"]), exposed),
        Figure("HBM", format_bytes(metrics["hbm_bytes"]), f"{share:.0%} of {format_bytes(metrics['hbm']['capacity'])}"),
    )


def timing_sections(result: Result, of: str = "") -> Iterator[Section]:
    """Where the time goes, and one layer on every rank. of: which of several runs, for the headings."""
    metrics = result.metrics
    parts = metrics["breakdown_s"]
    plot = plots.breakdown(parts, waiting_by_kind(result), metrics["step_time_s"])
    told = "Operations that overlap count each, so that the parts can add up to more than the step."
    yield Section(f"Where the time goes{of}", told, plot, height=90 + 30 * len(parts))
    layer, deployment = shown_layer(result), result.assembly.deployment

    def slowest(transfer: Transfer) -> tuple[str, str] | None:
        return bottleneck(deployment, transfer)

    plot = plots.layer_timeline(result.timeline, layer, slowest)
    told = "A row a rank; communication in the lower part of the row, over the computing that hides it."
    rows = len(plot.layout.yaxis.tickvals) * max(1, plot.layout.yaxis.tickvals[-1] // 12 + 1)
    yield Section(f"Timeline of layer {layer} on every rank{of}", told, plot, height=220 + 7 * min(max(rows, 16), 96))


def rank_load(result: Result) -> np.ndarray:
    """Tokens [moe_layer, expert-parallel rank of all instances] over the layer's mean."""
    layers = range(len(result.step.traffic[0]))
    load = np.stack(
        [np.concatenate([part[layer].tokens.sum(axis=1) for part in result.step.traffic]) for layer in layers]
    )
    return load / np.maximum(load.mean(axis=1, keepdims=True), 1e-300)


def _load_sections(result: Result) -> Iterator[Section]:
    placement = result.assembly.deployment.placement
    if placement is None or not result.step.traffic[0]:
        return
    load = expert_load(result.step, placement)
    relative = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-300)
    told = "Token copies over the layer's mean; replicas of an expert count together."
    plot = plots.heat_map(relative, across="expert", down="MoE layer", of="× the mean")
    yield Section("Load of experts", told, plot)
    plot = plots.heat_map(rank_load(result), across="expert-parallel rank", down="MoE layer", of="× the mean")
    told = "What placement makes of it: a layer waits for its hottest rank."
    yield Section("Load of ranks", told, plot)


def _link_sections(result: Result) -> Iterator[Section]:
    deployment = result.assembly.deployment
    found = link_load(deployment, result.timeline)
    if not found.load.any():
        return
    ends = deployment.network.links.ends
    rows, table = link_grid(ends, found.utilisation)
    plot = plots.heat_map(table * 100, across="device or switch", down="links", of="% of capacity", scale="Viridis")
    plot.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, title="")
    told = "Share of each link's capacity used over the step; of parallel planes the fullest."
    yield Section("Use of links", told, plot, table=_hottest(result, found), height=150 + 45 * len(rows))
    traffic = traffic_matrix(deployment, result.step)
    if traffic.any():
        who, traffic = _by_server(traffic, deployment.cluster.node)
        plot = plots.heat_map(traffic / 1e6, across=f"to {who}", down=f"from {who}", of="MB", scale="Viridis")
        yield Section("Dispatch and combine", f"MB a step from {who} to {who}.", plot, height=560)


def _hottest(result: Result, found: LinkLoad) -> pd.DataFrame:
    table = hottest_links(result.assembly.deployment, found, count=5)
    cells = {"hottest links": table["from"] + " → " + table["to"], "links": table["links"]}
    cells["used"] = [f"{value:.1%}" for value in table["utilisation"]]
    return pd.DataFrame(cells | {f"{kind}": table[f"{kind}_bytes"].map(format_bytes) for kind in found.kinds})


def link_grid(ends: list[tuple[str, str]], utilisation: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(kinds of links, utilisation [kind, device or switch]); NaN where there is none. Of links between the same kinds
    of nodes that share a device (or else a source), the fullest counts."""
    rows: dict[str, dict[str, float]] = {}
    for (source_node, target), used in zip(ends, utilisation.tolist(), strict=True):
        kinds = [re.sub(r"[\d.*]+$", "", node) for node in (source_node, target)]
        near = target if kinds[1] == "device" and kinds[0] != "device" else source_node
        row = rows.setdefault(" → ".join(kinds), {})
        row[near] = max(row.get(near, 0.0), used)
    table = np.full((len(rows), max(map(len, rows.values()))), np.nan)
    for number, row in enumerate(rows.values()):
        table[number, : len(row)] = list(row.values())
    return list(rows), table


def _by_server(traffic: np.ndarray, node: np.ndarray) -> tuple[str, np.ndarray]:
    if len(traffic) <= _MOST_RANKS:
        return "rank", np.where(np.eye(len(traffic), dtype=bool), np.nan, traffic)
    servers, place = np.unique(node, return_inverse=True)
    total = np.zeros((servers.size, servers.size))
    np.add.at(total, (place[:, None], place[None, :]), traffic)
    return "server", total


def memory_section(metrics: dict) -> Section:
    """HBM of the fullest rank by kind."""
    capacity = metrics["hbm"]["capacity"]
    parts = {kind: size for kind, size in metrics["hbm"]["by_kind"].items() if size}
    drawn = plots.figure(barmode="stack", legend={"orientation": "h", "y": -0.4, "traceorder": "normal"})
    for number, (kind, size) in enumerate(parts.items()):
        hover = f"{kind}: %{{x:.3g}} GB, {size / capacity:.1%} of the HBM<extra></extra>"
        colour = plots.PALETTE[number % len(plots.PALETTE)]
        drawn.add_bar(
            name=kind, y=["HBM"], x=[size / 1e9], orientation="h", marker={"color": colour}, hovertemplate=hover
        )
    drawn.add_vline(x=capacity / 1e9, line={"color": "#b03060", "dash": "dash"}, annotation_text="capacity")
    drawn.update_xaxes(title="GB on the fullest rank", range=[0, max(capacity, sum(parts.values())) / 1e9 * 1.08])
    drawn.update_yaxes(showticklabels=False)
    table = pd.DataFrame([(k, format_bytes(v), f"{v / capacity:.1%}") for k, v in parts.items()])
    return Section("Memory", plot=drawn, table=table.set_axis(["kind", "bytes", "of HBM"], axis=1), height=300)
