"""The report of a placement study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.step import timing_sections
from moesim.report.html.words import assumptions, between, provenance, sentence, source
from moesim.spec.step.scenario import Scenario
from moesim.study.placing.place import PlacementStudy, place_json
from moesim.units import format_bytes, format_seconds

_MOST_MAPS = 4


def placement_page(study: PlacementStudy) -> Page:
    """Which placement of experts to take, what it gains over the first, and what it costs to get there."""
    table, parts = study.table, study.workloads
    best, first = table.loc[table["amortised_step_time_s"].idxmin()], table.iloc[0]
    result = study.judged[0].results[parts.judged.name]
    return Page(
        title=f"Placement of experts: {result.assembly.title}",
        asked=_asked(study),
        answer=_answer(study, best, first),
        sure=_sure(study, best, first),
        why=_why(best, first),
        headline=_headline(best, first),
        sections=(
            *_steps(study),
            *_maps(study, best["name"]),
            *_tradeoff(study),
            _table(study),
            *_timelines(study, best["name"]),
            *assumptions(study.document, study.document.check(Scenario)),
            provenance(result.metrics["provenance"]),
        ),
        source=source(place_json(study), f"placement study of {result.metrics['scenario']}"),
    )


def _asked(study: PlacementStudy) -> str:
    parts = study.workloads
    others = f", and also on {', '.join(other.name for other in parts.others)}" if parts.others else ""
    policies = ", ".join(study.table["name"])
    return (
        f"Which of these policies should place the experts: {policies}? Each learns on: {parts.learned.name}; it is "
        f"judged by a simulated step on: {parts.judged.name}{others}. In force before: {study.base}; re-balanced every "
        f"{study.every:,} steps. {sentence(study.document.data.get('description', ''))}"
    )


def _answer(study: PlacementStudy, best: pd.Series, first: pd.Series) -> str:
    gain = first["amortised_step_time_s"] / best["amortised_step_time_s"] - 1
    if best["name"] == first["name"]:
        return f"Stay with {first['name']}: no other policy pays for its re-balancing."
    moved = f"{format_bytes(best['migration_bytes'])} of weights move once, in {format_seconds(best['migration_s'])}"
    paid = best["break_even_steps"]
    after = f", which has paid after {paid:,.0f} steps" if paid == paid and paid >= 0.5 else ""
    return f"Take {best['name']}: {gain:.1%} faster than {first['name']} with re-balancing included; {moved}{after}."


def _sure(study: PlacementStudy, best: pd.Series, first: pd.Series) -> str:
    kind = "The trace is synthetic. " if study.workloads.judged.trace.synthetic else ""
    told = f"{kind}No policy saw what it is judged on. The step takes {_interval(best)} under {best['name']}"
    if best["name"] != first["name"]:
        told += (
            f" and {_interval(first)} under {first['name']}; both share cost models, so that the difference is surer"
        )
        told += " than either"
    told += ". "
    if "other_step_time_s" in study.table:
        against = f" against {format_seconds(first['other_step_time_s'])}" if best["name"] != first["name"] else ""
        name = study.workloads.others[0].name
        told += f"On {name} it takes {format_seconds(best['other_step_time_s'])}{against}. "
    others = study.table.drop(index=best.name).sort_values("amortised_step_time_s", kind="stable")
    if len(others):
        slower = others["amortised_step_time_s"].iloc[0] / best["amortised_step_time_s"] - 1
        told += f"Next comes {others['name'].iloc[0]}, {slower:.1%} slower. "
    gap = f"{best['gap_to_bound']:.1%}"
    return f"{told}On what it learned from, its hottest rank stays {gap} above the least that is proven possible."


def _interval(row: pd.Series) -> str:
    interval = between(row["step_time_low_s"], row["step_time_high_s"])
    return f"{format_seconds(row['step_time_s'])} ({interval})"


def _why(best: pd.Series, first: pd.Series) -> str:
    if best["name"] == first["name"]:
        return (
            f"A layer waits for its hottest rank, which computes {first['hottest_rank_over_mean']:.2f} × the mean; "
            f"with its slots {first['least_hottest_over_mean']:.2f} × is the least possible on these tokens; no other "
            f"policy comes near enough to it to pay for what it moves."
        )
    return (
        f"A layer waits for its hottest rank, which computes {first['hottest_rank_over_mean']:.2f} × the mean under "
        f"{first['name']} and {best['hottest_rank_over_mean']:.2f} × under {best['name']}; with the slots of "
        f"{best['name']}, {best['least_hottest_over_mean']:.2f} × is the least possible on these tokens. Servers send "
        f"each other {format_bytes(first['cross_node_bytes'])} and {format_bytes(best['cross_node_bytes'])} a step."
    )


def _headline(best: pd.Series, first: pd.Series) -> tuple[Figure, ...]:
    gain = first["amortised_step_time_s"] / best["amortised_step_time_s"] - 1
    interval = between(best["step_time_low_s"], best["step_time_high_s"])
    moved = f"in {format_seconds(best['migration_s'])}"
    return (
        Figure("recommended", best["name"], f"{gain:+.1%} tokens/s against {first['name']}"),
        Figure("step time", format_seconds(best["step_time_s"]), interval),
        Figure(
            "hottest rank", f"{best['hottest_rank_over_mean']:.2f} ×", f"was {first['hottest_rank_over_mean']:.2f} ×"
        ),
        Figure("weights to move", format_bytes(best["migration_bytes"]), moved),
    )


def _steps(study: PlacementStudy) -> Iterator[Section]:
    table, parts = study.table, study.workloads
    middle, low, high = (table[f"step_time{part}_s"].to_numpy() * 1e3 for part in ("", "_low", "_high"))
    drawn = plots.bars_with_interval(table["name"], middle, low, high, "ms", f"on {parts.judged.name}")
    if "other_step_time_s" in table:
        drawn.add_scatter(
            name=f"on {parts.others[0].name}", x=table["other_step_time_s"] * 1e3, y=table["name"], mode="markers",
            marker={"symbol": "diamond", "color": "#c4572e", "size": 9},
            hovertemplate="%{y}: %{x:.4g} ms<extra></extra>",
        )  # fmt: skip
    drawn.update_xaxes(rangemode="tozero")
    yield Section("Step time", "", drawn, height=160 + 34 * len(table))


def _maps(study: PlacementStudy, best: str) -> Iterator[Section]:
    """Heat maps of the first policy, the recommended one and the fastest others, on one scale."""
    steps = dict(zip(study.table["name"], study.table["step_time_s"], strict=True))
    first, *others = study.judged
    others.sort(key=lambda each: (each.name != best, steps[each.name]))
    shown = [first, *others[: _MOST_MAPS - 1]]
    relative = [each.rank_load / np.maximum(each.rank_load.mean(axis=1, keepdims=True), 1e-300) for each in shown]
    most = max(float(load.max()) for load in relative)
    for each, load in zip(shown, relative, strict=True):
        plot = plots.heat_map(load, across="expert-parallel rank", down="MoE layer", of="× the mean", most=most)
        peak = f"The hottest rank of a layer computes {load.max(axis=1).mean():.2f} × the mean. "
        yield Section(f"Load of ranks under {each.name}", f"{peak}One scale for all policies.", plot, height=360)


def _tradeoff(study: PlacementStudy) -> Iterator[Section]:
    drawn = plots.figure(legend={"orientation": "h", "y": -0.2})
    for number, row in enumerate(study.table.to_dict("records")):
        size = 9 + 21 * np.sqrt(row["rebalance_bytes"] / max(study.table["rebalance_bytes"].max(), 1.0))
        drawn.add_scatter(
            name=row["name"],
            x=[row["cross_node_bytes"] / 1e9],
            y=[row["hottest_rank_over_mean"]],
            mode="markers",
            marker={"size": float(size), "color": plots.PALETTE[number % len(plots.PALETTE)]},
            customdata=[[row["step_time_s"] * 1e3, row["rebalance_bytes"] / 1e9, row["rebalance_s"] * 1e3]],
            hovertemplate="%{x:.3g} GB between servers, hottest rank %{y:.3f} × the mean<br>"
            "step %{customdata[0]:.4g} ms<br>a re-balancing moves %{customdata[1]:.3g} GB in %{customdata[2]:.3g} ms",
        )
    drawn.update_xaxes(title="GB a step between servers")
    drawn.update_yaxes(title="hottest rank / mean, mean over layers")
    told = "Left is less traffic between servers, down is better balance; the larger, the more a re-balancing moves."
    yield Section("Balance against traffic", told, drawn)


def _table(study: PlacementStudy) -> Section:
    rows = [
        {
            "policy": row["name"],
            "slots a rank": row["slots_per_rank"],
            "step": format_seconds(row["step_time_s"]),
            "hottest / mean": f"{row['hottest_rank_over_mean']:.3f}",
            "least possible": f"{row['least_hottest_over_mean']:.3f}",
            "between servers": format_bytes(row["cross_node_bytes"]),
            "HBM": format_bytes(row["hbm_bytes"]),
            "moved at first": format_bytes(row["migration_bytes"]),
            "a re-balancing": f"{format_bytes(row['rebalance_bytes'])} in {format_seconds(row['rebalance_s'])}",
            "amortised step": format_seconds(row["amortised_step_time_s"]),
        }
        for row in study.table.to_dict("records")
    ]
    left_out = "; ".join(f"{name}: {reason}" for name, reason in study.skipped.items())
    return Section("Policies", f"Left out: {left_out}." if left_out else "", table=pd.DataFrame(rows))


def _timelines(study: PlacementStudy, best: str) -> Iterator[Section]:
    first, *others = study.judged
    for each in (first, *(other for other in others if other.name == best)):
        yield from list(timing_sections(each.results[study.workloads.judged.name], f" under {each.name}"))[1:]
