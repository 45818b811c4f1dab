"""Two scenarios side by side: which fields differ, what that changes, and which operations are behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

import moesim
from moesim.errors import Infeasible, InvalidInput, Problem
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.comparison.differences import (
    ABSENT,
    fields_changed,
    figures_changed,
    hot_spots_changed,
    memory_changed,
    operations_changed,
)
from moesim.study.results.record import SCHEMA_VERSION, rounded, scenario_hash
from moesim.study.scenarios import Outcome, ScenarioKind, attempt, figure, kind_of, run_document
from moesim.study.sweeps.grid import as_text


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """b against a; `change` is b − a throughout, `relative` is b / a − 1.

    fields: field, a, b (texts; "" where absent). figures: figure, a, b, change, relative; the kind's headline first.
    operations: operation, a_s, b_s, change_s (mean over ranks; they add up to the change of the step), waiting_change_s
    (the part of it that waits for late ranks and shared links). hot_spots: spot, a, b. memory: kind, a_bytes, b_bytes,
    change_bytes. effects: field, value, figure, change, relative, reason: what a gives with this alone as in b; empty
    unless asked for. Tables that a kind of scenario does not have are empty. documents, runs: of a and b, for reports.
    """

    kind: ScenarioKind
    names: tuple[str, str]
    titles: tuple[str, str]
    hashes: tuple[str, str]
    fields: pd.DataFrame
    figures: pd.DataFrame
    operations: pd.DataFrame
    hot_spots: pd.DataFrame
    memory: pd.DataFrame
    effects: pd.DataFrame
    documents: tuple[Document, Document]
    runs: tuple[Outcome, Outcome]

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name, without the empty ones."""
        names = ("fields", "figures", "operations", "hot_spots", "memory", "effects")
        return {name: getattr(self, name) for name in names if not getattr(self, name).empty}

    def data(self) -> dict[str, object]:
        """All of it as JSON holds it."""
        whole = {
            "schema_version": SCHEMA_VERSION,
            "moesim_version": moesim.__version__,
            "kind": self.kind.name,
            "a": {"name": self.names[0], "title": self.titles[0], "scenario_hash": self.hashes[0]},
            "b": {"name": self.names[1], "title": self.titles[1], "scenario_hash": self.hashes[1]},
            **{name: table.to_dict("records") for name, table in self.tables().items()},
        }
        return rounded(whole)

    def __repr__(self) -> str:
        return f"<Comparison of {self.names[0]} and {self.names[1]}>"

    def _repr_html_(self) -> str:
        parts = [f"<h4>{self.names[0]} → {self.names[1]}</h4>"]
        return "".join([*parts, *(table.to_html(index=False, na_rep="") for table in self.tables().values())])


def compare(a: str, b: str | None = None, changes: Iterable[str] = (), *, each: bool = False) -> Comparison:
    """Run two scenarios of one kind. a, b: names or paths; b is a where it is left out. changes: ``field=value`` texts
    that hold in b. each: also run a with each differing top-level key alone as in b.

    Raises InvalidInput for scenarios of different kinds, or two that are the same, and as `run_document` does.
    """
    changes = tuple(changes)
    first, second = read_scenario(a), read_scenario(b or a, changes)
    kind = kind_of(first)
    if kind_of(second) is not kind:
        told = f"{a} is of kind {kind.name}, {b} of kind {kind_of(second).name}; compare two of one kind"
        raise InvalidInput(told)
    fields = fields_changed(first, second)
    if fields.empty:
        raise InvalidInput(Problem(f"{a} and {b or a} are the same; change something: --set FIELD=VALUE", ""))
    runs = tuple(_run(document, name) for document, name in ((first, a), (second, b or a)))
    before, after = (run.metrics for run in runs)
    return Comparison(
        kind,
        _names(first, second, changes),
        (str(before.get("title", "")), str(after.get("title", ""))),
        (scenario_hash(first), scenario_hash(second)),
        fields,
        figures_changed(kind, before, after),
        operations_changed(*runs),
        hot_spots_changed(before, after),
        memory_changed(before, after),
        _effects(kind, first, second, before) if each else pd.DataFrame(),
        (first, second),
        runs,
    )


def _run(document: Document, name: str) -> Outcome:
    try:
        return run_document(document)
    except Infeasible as error:
        raise Infeasible(f"{name}: {error}") from None


def _names(first: Document, second: Document, changes: tuple[str, ...]) -> tuple[str, str]:
    one, two = first.name, second.name
    if changes:
        two = f"{two} with {', '.join(changes)}" if one != two else ", ".join(changes)
    return one, two


def _effects(kind: ScenarioKind, first: Document, second: Document, before: Mapping) -> pd.DataFrame:
    """a with one top-level key as in b, for each that differs. Keys that make no scenario alone (devices without the
    degrees) change together; what is impossible even so says why."""
    keys = [
        key
        for key in dict.fromkeys([*first.data, *second.data])
        if key != "description" and first.data.get(key, ABSENT) != second.data.get(key, ABSENT)
    ]
    base = figure(before, kind.headline[0])
    alone = {(key,): attempt(_with_keys(first, second, (key,))) for key in keys}
    stuck = tuple(key for key in keys if alone[key,].status != "ok")
    if 1 < len(stuck) < len(keys):
        alone = {group: found for group, found in alone.items() if group[0] not in stuck}
        alone[stuck] = attempt(_with_keys(first, second, stuck))
    rows = []
    for group, found in alone.items():
        now = figure(found.metrics, kind.headline[0]) if found.status == "ok" else None
        change = None if now is None or base is None else now - base
        rows.append(
            {
                "field": " + ".join(group),
                "value": ", ".join(as_text(second.data[key]) if key in second.data else "(left out)" for key in group),
                "figure": kind.headline[0],
                "change": change,
                "relative": change / abs(base) if change is not None and base else None,
                "reason": found.reason,
            }
        )
    rows.sort(key=lambda row: -abs(row["change"] or 0.0))
    return pd.DataFrame(rows)


def _with_keys(first: Document, second: Document, keys: tuple[str, ...]) -> Document:
    data = {name: value for name, value in first.data.items() if name not in keys}
    return replace(first, data=data | {key: second.data[key] for key in keys if key in second.data})
