"""The report of a capacity plan."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from moesim.report.html import plan_sections as sections
from moesim.report.html.page import Figure, Page
from moesim.report.html.words import LEVEL, assumptions, provenance, sentence, source
from moesim.study.planning.plan import PlanResult
from moesim.units import format_seconds


def plan_page(result: PlanResult, each: pd.DataFrame | None = None) -> Page:
    """What to rent or buy for a load, what comes next to it, what binds, and what would help.

    each: `moesim.study.planning.each_product.cheapest_on_each`, where it was asked for.
    """
    metrics, plan = result.metrics, result.plan
    return Page(
        title=f"Capacity plan: {metrics['plan']}",
        asked=_asked(metrics),
        answer=_answer(metrics) + _beside(each),
        sure=_sure(metrics) + _unmeasured(sections.origins(result)),
        why=_why(result),
        headline=tuple(_headline(metrics)),
        sections=(
            *sections.recommended(metrics),
            *(() if each is None else (sections.each(each),)),
            *sections.frontier(sections.meeting(result, each)),
            *sections.costs(result, sections.meeting(result, each)),
            *sections.sensitivity(result),
            *sections.finalists(metrics),
            *sections.compared(metrics),
            sections.dropped(metrics),
            sections.products(result),
            *assumptions(result.document, plan),
            provenance(sections.origins(result)),
        ),
        source=source(metrics | {"seed": plan.seed}, f"plan {metrics['plan']}"),
    )


def _asked(metrics: dict) -> str:
    slo = metrics["slo"]
    return (
        f"What is the cheapest way to serve {metrics['model']} to {metrics['rate']:g} requests/s, so that "
        f"{slo['percentile']:g} % of requests have a TTFT of at most {format_seconds(slo['ttft_s'])} and a TPOT of at "
        f"most {format_seconds(slo['tpot_s'])}? {sentence(metrics['description'])}"
    )


def _answer(metrics: dict) -> str:
    best, closest = metrics["best"], metrics["closest"]
    if best is None:
        near = f" Closest comes {closest['label']}: {closest['binds']}." if closest else " Nothing could be served."
        return f"Nothing that was searched meets the objectives.{near}"
    told = (
        f"Take {sections.servers(best)}: {best['devices']} devices for {best['usd_per_hour']:,.2f} USD/h, "
        f"{best['usd_per_million_output_tokens']:.3g} USD a million output tokens "
        f"({best['usd_per_million_tokens']:.3g} of all tokens)."
    )
    if metrics["runners_up"]:
        other = metrics["runners_up"][0]
        told += f" Next come {sections.servers(other)} at {other['usd_per_hour'] / best['usd_per_hour'] - 1:+.1%} cost."
    return told


def _beside(each: pd.DataFrame | None) -> str:
    """What the best of each other product costs."""
    if each is None or "usd_per_hour" not in each:
        return ""
    least = each["usd_per_hour"].min()
    told = [
        f"{row.product.partition(',')[0]} "
        + (f"{row.usd_per_hour / least:.2f} × as much" if not row.closest else "cannot")
        for row in each.itertuples()
        if row.usd_per_hour != least
    ]
    return f" On one product alone: {', '.join(told)}." if told else ""


def _sure(metrics: dict) -> str:
    (low, high), (first, last) = metrics["intervals"]["tpot"], metrics["intervals"]["ttft"]
    told = (
        f"On published serving runs that were not fitted, 80 % of TPOTs are {low:.2f} to {high:.2f} × the prediction, "
        f"and of TTFTs {first:.2f} to {last:.2f} ×."
    )
    best, slo = metrics["best"], metrics["slo"]
    if best is None:
        return told
    late = best["tpot_s"] * high > slo["tpot_s"], best["ttft_s"] * last > slo["ttft_s"]
    if any(late):
        which = " and ".join(name for name, is_late in zip(("TPOT", "TTFT"), late, strict=True) if is_late)
        return f"{told} At the upper end of its interval the {which} of this plan misses the objective."
    return f"{told} The plan meets the objectives at the upper end of both intervals."


def _unmeasured(origins: dict[str, str]) -> str:
    """What no kernel was measured for."""
    weak = [f"{name.removeprefix('cost models of ')} ({origin.rpartition(': ')[2]})" for name, origin in origins.items()
            if name.startswith("cost models") and not origin.endswith("measured")]  # fmt: skip
    return f" Less sure are kernels that nobody measured: {', '.join(weak)}." if weak else ""


def _why(result: PlanResult) -> str:
    metrics = result.metrics
    dropped = sum(metrics["dropped"].values())
    told = (
        f"Of {metrics['considered']:,} candidates {dropped:,} were dropped by bounds before anything was simulated; "
        f"{metrics['served']:,} served the load."
    )
    if metrics["best"] is None:
        return told
    told += f" With one server less the objectives are missed: {metrics['best']['binds']}."
    gains = result.sensitivity.iloc[1:].sort_values("gain", ascending=False, kind="stable") if result.found else None
    if gains is not None and len(gains) and gains["gain"].iloc[0] > 0:
        first = gains.iloc[0]
        told += f" What would help most: {first['knob']}, {first['gain']:+.1%} requests/s within the objectives."
    return told


def _headline(metrics: dict) -> Iterator[Figure]:
    best = metrics["best"]
    if best is None:
        yield Figure("recommended", "nothing", "meets the objectives")
        return
    yield Figure("cost", f"{best['usd_per_hour']:,.2f} USD/h", f"{best['devices']} × {best['hardware']}")
    cost = f"{best['usd_per_million_output_tokens']:.3g} USD"
    yield Figure("a million output tokens", cost, f"{best['usd_per_million_tokens']:.3g} USD of all tokens")
    for name in ("ttft", "tpot"):
        value, (low, high) = best[f"{name}_s"], metrics["intervals"][name]
        span = f"{format_seconds(value * low)} – {format_seconds(value * high)}, {LEVEL}"
        yield Figure(f"{name.upper()}, {metrics['slo']['percentile']:g} % of requests", format_seconds(value), span)
    if best["kwh_per_million_output_tokens"] is not None:
        grams = best["grams_co2e_per_million_output_tokens"]
        carbon = f"{grams:,.0f} g CO2e; " if grams is not None else ""
        energy = f"{best['kwh_per_million_output_tokens']:.3g} kWh"
        yield Figure("energy", energy, f"{carbon}a million output tokens")
