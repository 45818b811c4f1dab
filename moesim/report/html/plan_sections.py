"""The parts of a capacity plan's report: tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from moesim.cost.calibration import machine_for
from moesim.report.html import plots
from moesim.report.html.page import Section
from moesim.spec.hardware.profile import load_profile
from moesim.spec.serving.constants import load_fitted
from moesim.study.planning.economics import device_usd_per_hour, device_watts
from moesim.study.planning.plan import PlanResult
from moesim.units import format_seconds

_MOST_ROWS = 15  # of the table of candidates; the plot has all


def servers(row: dict) -> str:
    """``2 + 1 servers of …``: decoding servers, and those of the prefill pool."""
    apart = f" + {row['prefill_servers']}" if row["prefill_servers"] else ""
    return f"{row['servers']}{apart} servers of {row['label']}"


def recommended(metrics: dict) -> Iterator[Section]:
    """The cheapest plan, then the next."""
    if metrics["best"] is None:
        return
    rows = [_row(row) for row in (metrics["best"], *metrics["runners_up"])]
    trained = metrics["best"]["usd_training_per_million_tokens_served"]
    told = "Cheapest first; the last column tells which objective one server less would miss."
    if trained is not None:
        told += f" Training adds {trained:.3g} USD a million tokens served."
    yield Section("Recommended, and runners-up", told, table=pd.DataFrame(rows))


def _row(row: dict) -> dict:
    return {
        "plan": servers(row),
        "devices": row["devices"],
        "USD/h": f"{row['usd_per_hour']:,.2f}",
        "USD/M out": f"{row['usd_per_million_output_tokens']:.3g}",
        "TTFT": format_seconds(row["ttft_s"]),
        "TPOT": format_seconds(row["tpot_s"]),
        "J/token": "–" if row["joules_per_token"] is None else f"{row['joules_per_token']:.3g}",
        "a server less": row["binds"],
    }


def each(each: pd.DataFrame) -> Section:
    """The cheapest on each product alone, against the cheapest of all."""
    least = each["usd_per_hour"].min() if "usd_per_hour" in each else np.nan
    rows = []
    for row in each.replace({np.nan: None}).to_dict("records"):
        first = {"product": row["product"].partition(",")[0]}
        if row["closest"]:
            rows.append(first | {"plan": "nothing meets the objectives", "a server less": f"closest: {row['closest']}"})
        else:
            rows.append(first | _row(row) | {"of the cheapest": f"{row['usd_per_hour'] / least:.2f} ×"})
    told = "A search of each product by itself, so that a dear one shows its own best."
    return Section("On each product alone", told, table=pd.DataFrame(rows).astype(object).fillna("–"))


def frontier(table: pd.DataFrame) -> Iterator[Section]:
    """Every candidate that meets the objectives, a colour a product, the frontier joined."""
    if table.empty:
        return
    drawn = plots.figure(legend={"orientation": "h", "y": -0.15})
    edge = table[table["efficient"]].sort_values("tokens_per_s_per_user")
    drawn.add_scatter(
        name="frontier", x=edge["tokens_per_s_per_user"], y=edge["tokens_per_s_per_device"], mode="lines",
        line={"color": "#455a64", "width": 1}, hoverinfo="skip",
    )  # fmt: skip
    _points(drawn, table, "tokens_per_s_per_user", "tokens_per_s_per_device")
    drawn.update_xaxes(title="tokens/s a user (1 / mean TPOT)")
    drawn.update_yaxes(title="output tokens/s a device", rangemode="tozero")
    told = "Candidates that were served and meet the objectives; each with as many servers as the load needs."
    yield Section("Throughput of a device against speed for a user", told, drawn, height=520)


def costs(result: PlanResult, table: pd.DataFrame) -> Iterator[Section]:
    """Cost of a token against TPOT, and the cheapest of each layout."""
    if table.empty:
        return
    drawn = plots.figure(legend={"orientation": "h", "y": -0.15})
    _points(drawn, table.assign(tpot_ms=table["tpot_s"] * 1e3), "tpot_ms", "usd_per_million_output_tokens")
    slo = {"color": "#b03060", "dash": "dash"}
    drawn.add_vline(x=result.plan.slo.tpot * 1e3, line=slo, annotation_text="SLO")
    drawn.update_xaxes(title=f"TPOT of {result.plan.slo.percentile:g} % of requests, ms")
    drawn.update_yaxes(title="USD a million output tokens", rangemode="tozero")
    layouts = table[~table["label"].str.rpartition(", ")[0].duplicated()].head(_MOST_ROWS)
    rows = [_row(row) for row in layouts.replace({np.nan: None}).to_dict("records")]
    told = "The cheapest of each layout; all candidates are in the plot."
    yield Section("Cost against speed", told, drawn, pd.DataFrame(rows), height=460)


def meeting(result: PlanResult, each: pd.DataFrame | None) -> pd.DataFrame:
    """Candidates that meet the objectives, cheapest first, with the best of each product alone."""
    table = result.candidates
    table = table[table["meets"]] if len(table) else table
    if each is None or table.empty:
        return table
    alone = each[(each["closest"] == "") & ~each["label"].isin(table["label"])]
    whole = (
        pd.concat([table, alone[table.columns].astype(table.dtypes).assign(efficient=False)]) if len(alone) else table
    )
    return whole.sort_values("usd_per_hour", kind="stable")


def _points(drawn, table: pd.DataFrame, across: str, up: str) -> None:
    """Markers of candidates, a trace a product, with what they are where the mouse is; then the recommended one."""
    told = ["label", "servers", "prefill_servers", "usd_per_hour", "usd_per_million_output_tokens"]
    hover = (
        "%{customdata[1]} + %{customdata[2]} servers of %{customdata[0]}<br>%{customdata[3]:,.2f} USD/h, "
        "%{customdata[4]:.3g} USD a million output tokens<br>"
        "TTFT %{customdata[5]}, TPOT %{customdata[6]}<extra></extra>"
    )
    groups = [*table.groupby("hardware", sort=False), ("recommended", table.head(1))]
    for number, (name, rows) in enumerate(groups):
        last = number == len(groups) - 1
        star = {"symbol": "star-open", "size": 18, "color": "#22303c", "line": {"width": 2}}
        dot = {"size": 7, "color": plots.PALETTE[number % len(plots.PALETTE)]}
        times = [rows[column].map(format_seconds) for column in ("ttft_s", "tpot_s")]
        drawn.add_scatter(
            name=name, x=rows[across], y=rows[up], mode="markers", marker=star if last else dot, hovertemplate=hover,
            customdata=pd.concat([rows[told], *times], axis=1).to_numpy(dtype=object).tolist(),
        )  # fmt: skip


def sensitivity(result: PlanResult) -> Iterator[Section]:
    """What a tenth more of something would gain."""
    if result.sensitivity.empty:
        return
    rows = result.sensitivity.iloc[1:].sort_values("gain", ascending=False, kind="stable")
    drawn = plots.figure(showlegend=False)
    drawn.add_bar(
        y=rows["knob"], x=rows["gain"] * 100, orientation="h", customdata=rows["requests_per_s"],
        hovertemplate="%{y}: %{customdata:.2f} requests/s (%{x:+.1f} %)<extra></extra>", marker={"color": "#2f5d8a"},
    )  # fmt: skip
    drawn.update_yaxes(autorange="reversed")
    drawn.update_xaxes(title="% more requests/s within the objectives")
    base = result.sensitivity["requests_per_s"].iloc[0]
    told = f"As planned, the recommended servers carry up to {base:.2f} requests/s within the objectives."
    cells = pd.DataFrame(
        {
            "change": rows["knob"],
            "requests/s": [f"{value:.2f}" for value in rows["requests_per_s"]],
            "gain": [f"{value:+.1%}" for value in rows["gain"]],
        }
    )
    yield Section("What would help", told, drawn, cells, height=120 + 34 * len(rows))


def finalists(metrics: dict) -> Iterator[Section]:
    """Decode steps of the cheapest plans through the engine."""
    if not metrics["finalists"]:
        return
    rows = [
        {name.removesuffix("_s"): _cell(name, value) for name, value in row.items()} for row in metrics["finalists"]
    ]
    told = "Typical decode steps of the cheapest plans through the engine, with routing from the trace."
    yield Section("Finalists, step by step", told, table=pd.DataFrame(rows))


def _cell(name: str, value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "gain":
        return f"{value:+.1%}"
    if isinstance(value, (int, float)) and name.endswith("over_mean"):
        return f"{value:.2f} ×"
    if isinstance(value, float):
        return format_seconds(value) if name.endswith("_s") else f"{value:.4g}"
    return str(value).splitlines()[0]


def compared(metrics: dict) -> Iterator[Section]:
    """Dense models that serve the same load."""
    if not metrics["compared"]:
        return
    rows = [
        {
            "model": row["model"],
            "cheapest servers": row["label"] or "nothing meets the objectives",
            "USD/M out": f"{row['usd_per_million_output_tokens']:.3g}" if row["label"] else "–",
            "of the plan": f"{row['over_plan']:.2f} ×" if row["label"] else "–",
            "break-even tokens": "–" if row["break_even_tokens"] is None else f"{row['break_even_tokens']:.3g}",
        }
        for row in metrics["compared"]
    ]
    told = "The same search for dense models. Break-even: tokens after which cheaper tokens have paid dearer training."
    yield Section("Against dense models", told, table=pd.DataFrame(rows))


def dropped(metrics: dict) -> Section:
    """Candidates by what became of them."""
    rows = [(reason, f"{count:,}") for reason, count in metrics["dropped"].items()]
    rows.append(("served the load in simulation", f"{metrics['served']:,}"))
    return Section(
        f"What became of {metrics['considered']:,} candidates", table=pd.DataFrame(rows, columns=["", "candidates"])
    )


def products(result: PlanResult) -> Section:
    """What a device of each product costs and draws."""
    economics, rows = result.plan.economics, []
    for hardware in _profiles(result):
        watts = device_watts(hardware, economics)
        rows.append(
            {
                "product": hardware.title,
                "USD/h a device": f"{device_usd_per_hour(hardware, economics):.3g}",
                "paid by": "owning" if hardware.name in economics.own else "renting",
                "W a device": "–" if np.isnan(watts) else f"{watts:,.0f}",
            }
        )
    return Section("Assumptions: prices and power", table=pd.DataFrame(rows))


def _profiles(result: PlanResult):
    names = dict.fromkeys(space.hardware for space in result.plan.search)
    return [load_profile(name, beside=result.document.file) for name in names]


def origins(result: PlanResult) -> dict[str, str]:
    """Where cost models, routing and constants come from."""
    words, lookup = {}, partial(load_profile, beside=result.document.file)
    for space in result.plan.search:
        machine = machine_for(lookup(space.hardware), space.software, lookup)
        words[f"cost models of {space.hardware}"] = f"{space.software}: {machine.origin}"
    routing = result.document.data["routing"]
    return words | {"routing": str(routing.get("trace", routing["kind"])), "stack constants": load_fitted().source}
