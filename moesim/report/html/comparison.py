"""The report of two runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.step import timing_sections
from moesim.report.html.words import assumptions, between, provenance
from moesim.study.comparison.compare import Comparison
from moesim.study.comparison.differences import UNSTACKED
from moesim.study.step.run import Result
from moesim.units import format_bytes, format_seconds

_MOST_FIGURES = 16
_NAMES = ("rank", "expert", "moe_layer", "layer")  # last parts of figures that number things instead of measuring them


def comparison_page(found: Comparison) -> Page:
    """What differs between two runs, and which operations are behind it."""
    a, b = found.names
    return Page(
        title=f"{a} → {b}",
        asked=_asked(found),
        answer=_answer(found),
        sure=_sure(found),
        why=_why(found),
        headline=tuple(_headline(found)),
        sections=(
            Section("What differs", table=found.fields.rename(columns={"a": f"A: {a}", "b": f"B: {b}"})),
            *_operations(found),
            *_figures(found),
            *_spots(found),
            *_timelines(found),
            *_assumed(found),
        ),
        source=f"moesim {found.runs[0].metrics['moesim_version']}; A: {a}, hash {found.hashes[0]}; "
        f"B: {b}, hash {found.hashes[1]}",
    )


def _asked(found: Comparison) -> str:
    fields = ", ".join(f"{row.field} {row.a or '–'} → {row.b or '–'}" for row in found.fields.head(6).itertuples())
    more = f" and {len(found.fields) - 6} more" if len(found.fields) > 6 else ""
    titles = " to ".join(dict.fromkeys(filter(None, found.titles)))
    return f"What changes from A to B ({titles or found.kind.name}), where these differ: {fields}{more}?"


def _answer(found: Comparison) -> str:
    told = []
    for row in found.figures[found.figures["figure"].isin(found.kind.headline)].itertuples():
        if row.relative is not None and not math.isnan(row.relative):
            told.append(f"{row.figure} {number(row.figure, row.a)} → {number(row.figure, row.b)} ({row.relative:+.1%})")
    return f"{'; '.join(told)}." if told else "No figure of the headline is known of both."


def _sure(found: Comparison) -> str:
    before, after = (run.metrics for run in found.runs)
    if "step_time_low_s" not in before:
        return "Each run's own interval stands in its report; both share the cost models named below."
    spans = [f"{between(each['step_time_low_s'], each['step_time_high_s'])} ({name})"
             for name, each in zip("AB", (before, after), strict=True)]  # fmt: skip
    apart = (
        before["step_time_low_s"] > after["step_time_high_s"] or after["step_time_low_s"] > before["step_time_high_s"]
    )
    shared = "errors of a cost model that both runs use move both the same way, so the change is surer than either"
    verdict = "The intervals do not overlap." if apart else f"The intervals overlap; {shared}."
    return f"Step times: {'; '.join(spans)}. {verdict}"


def _why(found: Comparison) -> str:
    if found.operations.empty:
        moved = found.figures.dropna(subset="relative")
        moved = moved.loc[moved["relative"].astype(float).abs().sort_values(ascending=False, kind="stable").index]
        told = ", ".join(f"{row.figure} {row.relative:+.1%}" for row in moved.head(3).itertuples())
        return f"These figures move most: {told}." if told else "No figure moves."
    largest = found.operations[found.operations["operation"] != UNSTACKED].head(3)
    told = ", ".join(f"{row.operation} {signed(row.change_s)}" for row in largest.itertuples())
    waits = found.operations["waiting_change_s"].sum()
    waiting = f" Waiting for late ranks and shared links is {signed(waits)} of it." if abs(waits) > 1e-9 else ""
    spots = [f"the {row.spot} is {row.b or 'none'}, before {row.a or 'none'}" for row in found.hot_spots.itertuples()]
    return f"The operations that change most: {told}.{waiting}" + (f" Of B {'; '.join(spots)}." if spots else "")


def _headline(found: Comparison) -> Iterator[Figure]:
    rows = found.figures.set_index("figure")
    for name in found.kind.headline[:5]:
        row = rows.loc[name]
        known = not (pd.isna(row["a"]) or pd.isna(row["b"]) or pd.isna(row["relative"]))
        change = f"{row['relative']:+.1%}" if known else "–"
        yield Figure(name, change, f"{number(name, row['a'])} → {number(name, row['b'])}")


def _operations(found: Comparison) -> Iterator[Section]:
    if found.operations.empty:
        return
    before, after = (run.metrics["step_time_s"] * 1e3 for run in found.runs)
    table = found.operations[found.operations["change_s"].abs() > 1e-9]
    change = table["change_s"].to_numpy() * 1e3
    drawn = plots.figure(showlegend=False)
    drawn.add_waterfall(
        x=["A", *table["operation"], "B"],
        y=[before, *change, after],
        measure=["absolute", *["relative"] * len(table), "total"],
        increasing={"marker": {"color": "#c4572e"}},
        decreasing={"marker": {"color": "#2e7d4f"}},
        totals={"marker": {"color": "#5b8db8"}},
        customdata=[0.0, *(table["waiting_change_s"] * 1e3), 0.0],
        hovertemplate="%{x}: %{delta:+.4g} ms (of it waiting %{customdata:+.4g} ms)"
        "<br>so far %{final:.4g} ms<extra></extra>",
        text=[f"{before:.4g}", *(f"{value:+.3g}" for value in change), f"{after:.4g}"],
    )
    drawn.update_yaxes(title="ms a step, mean over ranks")
    told = "From A's step to B's, by the change of each operation on the average rank."
    cells = pd.DataFrame(
        {
            "operation": found.operations["operation"],
            "A": found.operations["a_s"].map(_seconds),
            "B": found.operations["b_s"].map(_seconds),
            "change": found.operations["change_s"].map(signed),
            "of it waiting": found.operations["waiting_change_s"].map(lambda value: signed(value) if value else ""),
        }
    )
    yield Section("By operation", told, drawn, cells)


def _figures(found: Comparison) -> Iterator[Section]:
    moved = found.figures.dropna(subset="relative")
    if moved.empty:
        return
    head = moved["figure"].isin(found.kind.headline)
    rest = moved[~head & ~moved["figure"].map(lambda name: name.rpartition(".")[2] in _NAMES)]
    order = rest["relative"].astype(float).abs().sort_values(ascending=False, kind="stable").index
    table = pd.concat([moved[head], rest.loc[order]]).head(_MOST_FIGURES)
    relative = table["relative"].to_numpy(float) * 100
    drawn = plots.figure(showlegend=False)
    drawn.add_bar(
        y=table["figure"], x=relative, orientation="h",
        marker={"color": np.where(relative > 0, "#c4572e", "#2f5d8a").tolist()},
        customdata=table[["a", "b"]].to_numpy(float),
        hovertemplate="%{y}: %{customdata[0]:.5g} → %{customdata[1]:.5g} (%{x:+.2f} %)<extra></extra>",
    )  # fmt: skip
    drawn.update_yaxes(autorange="reversed")
    drawn.update_xaxes(title="change in %")
    cells = pd.DataFrame(
        {
            "figure": table["figure"],
            "A": [number(name, value) for name, value in zip(table["figure"], table["a"], strict=True)],
            "B": [number(name, value) for name, value in zip(table["figure"], table["b"], strict=True)],
            "change": [f"{value:+.1f} %" for value in relative],
        }
    )
    yield Section("Figures", "The headline's, then those that move most.", drawn, cells, height=110 + 24 * len(table))


def _spots(found: Comparison) -> Iterator[Section]:
    if not found.hot_spots.empty:
        yield Section("Hot spots", table=found.hot_spots.rename(columns={"a": "A", "b": "B"}))
    if not found.memory.empty:
        cells = found.memory.assign(**{name: found.memory[name].map(format_bytes) for name in ("a_bytes", "b_bytes")})
        cells["change_bytes"] = found.memory["change_bytes"].map(lambda value: f"{value / 1e9:+,.3f} GB")
        yield Section("Memory of the fullest rank", table=cells.set_axis(["kind", "A", "B", "change"], axis=1))
    if not found.effects.empty:
        rows = [(row.field, row.value, f"{row.relative:+.1%}" if not row.reason else "impossible alone", row.reason)
                for row in found.effects.itertuples()]  # fmt: skip
        cells = pd.DataFrame(rows, columns=["A with only this of B", "value", found.kind.headline[0], "why not"])
        yield Section("Each difference alone", table=cells)


def _timelines(found: Comparison) -> Iterator[Section]:
    for name, run in zip("AB", found.runs, strict=True):
        if isinstance(run, Result):
            yield from list(timing_sections(run, f", {name}"))[1:]


def _assumed(found: Comparison) -> Iterator[Section]:
    for name, document in zip("AB", found.documents, strict=True):
        for section in assumptions(document, document.check(found.kind.schema)):
            yield Section(f"{section.heading} ({name})", section.text, table=section.table, code=section.code)
    words = [run.metrics.get("provenance", {}) for run in found.runs]
    rows = {f"{key} ({name})": text for name, said in zip("AB", words, strict=True) for key, text in said.items()}
    if rows:
        yield provenance(rows)


def number(figure: str, value: float | None) -> str:
    """A figure in the unit that its name tells."""
    if value is None or pd.isna(value):
        return "–"
    if figure.partition(".")[0].endswith("_per_s") or "_per_s_per_" in figure:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if any(part.endswith("_s") for part in figure.split(".")):
        return format_seconds(value)
    if figure.endswith("bytes") or ".by_kind." in figure:
        return format_bytes(value)
    return f"{value:.5g}"


def signed(value: float) -> str:
    """A change in seconds with its sign."""
    return "0" if not value else f"{'−' if value < 0 else '+'}{format_seconds(abs(value))}"


def _seconds(value: float) -> str:
    return "" if value < 0 else format_seconds(value)
