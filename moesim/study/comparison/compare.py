"""Two scenarios side by side: which fields differ, what that changes, and which operations are behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

import moesim
from moesim.errors import Infeasible, InvalidInput, Problem
from moesim.spec.loading import Document
from moesim.spec.scenario_file import read_scenario
from moesim.study.results.record import SCHEMA_VERSION, rounded, scenario_hash
from moesim.study.scenarios import Outcome, ScenarioKind, attempt, figure, kind_of, run_document
from moesim.study.sweeps.grid import as_text

# What the average rank does beside others' work, or not at all: the step less its operations one after another.
UNSTACKED = "idle less overlapped"
_ASIDE = ("schema_version", "breakdown_s.", "hbm.by_kind.", "provenance.")  # told elsewhere, or no result
_NOISE = 1e-8  # results carry nine digits
_ABSENT = object()


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
    fields = _fields(first, second)
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
        _figures(kind, before, after),
        _operations(*runs),
        _hot_spots(before, after),
        _memory(before, after),
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


def _fields(first: Document, second: Document) -> pd.DataFrame:
    before, after = (dict(_flat(document.data)) for document in (first, second))
    rows = [
        {"field": field, "a": _said(before, field), "b": _said(after, field)}
        for field in dict.fromkeys([*before, *after])
        if field != "description" and before.get(field, _ABSENT) != after.get(field, _ABSENT)
    ]
    return pd.DataFrame(rows, columns=["field", "a", "b"])


def _said(values: Mapping[str, object], field: str) -> str:
    return as_text(values[field]) if field in values else ""


def _flat(data: object, inside: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of everything that is no mapping; a mapping without keys is a value."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flat(value, f"{inside}.{key}" if inside else str(key))
    else:
        yield inside, data


def _figures(kind: ScenarioKind, before: Mapping, after: Mapping) -> pd.DataFrame:
    numbers = [dict(_numbers(metrics)) for metrics in (before, after)]
    rows = []
    for name in dict.fromkeys([*kind.headline, *numbers[0], *numbers[1]]):
        one, two = (values.get(name) for values in numbers)
        same = one is not None and two is not None and abs(two - one) <= _NOISE * abs(one)
        if name in kind.headline or (not same and not name.startswith(_ASIDE)):
            change = None if one is None or two is None else two - one
            relative = change / abs(one) if change is not None and one else None
            rows.append({"figure": name, "a": one, "b": two, "change": change, "relative": relative})
    return pd.DataFrame(rows, columns=["figure", "a", "b", "change", "relative"])


def _numbers(metrics: object, inside: str = "") -> Iterator[tuple[str, float]]:
    items = metrics.items() if isinstance(metrics, Mapping) else enumerate(metrics)
    for key, value in items:
        name = f"{inside}.{key}" if inside else str(key)
        if isinstance(value, (Mapping, list)):
            yield from _numbers(value, name)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value


def _operations(one: Outcome, two: Outcome) -> pd.DataFrame:
    """Largest change first, what is not an operation of the average rank last."""
    columns = ["operation", "a_s", "b_s", "change_s", "waiting_change_s"]
    before, after = (run.metrics.get("breakdown_s") or {} for run in (one, two))
    if not (before and after):
        return pd.DataFrame(columns=columns)
    waits = [waiting_by_kind(run) for run in (one, two)]
    rows = [
        (kind, before.get(kind, 0.0), after.get(kind, 0.0), waits[1].get(kind, 0.0) - waits[0].get(kind, 0.0))
        for kind in dict.fromkeys([*before, *after])
    ]
    rows.sort(key=lambda row: (-abs(row[2] - row[1]), row[0]))
    rest = [run.metrics["step_time_s"] - sum(run.metrics["breakdown_s"].values()) for run in (one, two)]
    if any(abs(value) > _NOISE * run.metrics["step_time_s"] for value, run in zip(rest, (one, two), strict=True)):
        rows.append((UNSTACKED, *rest, 0.0))
    return pd.DataFrame([(name, a, b, b - a, wait) for name, a, b, wait in rows], columns=columns)


def waiting_by_kind(run: Outcome) -> dict[str, float]:
    """Seconds a step that collectives of each kind wait, in the share in which the metrics hold the whole."""
    timeline, whole = getattr(run, "timeline", None), run.metrics.get("waiting_s")
    by_kind = timeline.waiting_s() if timeline is not None else {}
    total = sum(by_kind.values())
    return {kind: value * whole / total for kind, value in by_kind.items()} if total and whole else {}


def _hot_spots(before: Mapping, after: Mapping) -> pd.DataFrame:
    rows = []
    for spot, say in (("hottest_rank", _rank), ("hottest_expert", _expert), ("hottest_link", _link)):
        found = [say(metrics[spot]) if metrics.get(spot) else "" for metrics in (before, after)]
        if any(found):
            rows.append({"spot": spot.replace("_", " "), "a": found[0], "b": found[1]})
    return pd.DataFrame(rows, columns=["spot", "a", "b"])


def _rank(spot: Mapping) -> str:
    which = f"{spot['rank']}: " if "rank" in spot else ""  # of a training step every stage has its own
    return f"{which}{spot['over_mean']:.2f} × the mean, {spot['per_layer_over_mean']:.2f} × in the mean layer"


def _expert(spot: Mapping) -> str:
    return f"{spot['expert']} of MoE layer {spot['moe_layer']}: {spot['over_mean']:.1f} × the mean"


def _link(spot: Mapping) -> str:
    return f"{spot['from']} → {spot['to']}: {spot['utilisation']:.0%} busy"


def _memory(before: Mapping, after: Mapping) -> pd.DataFrame:
    columns = ["kind", "a_bytes", "b_bytes", "change_bytes"]
    kinds = [(metrics.get("hbm") or {}).get("by_kind") or {} for metrics in (before, after)]
    rows = [(kind, kinds[0].get(kind, 0.0), kinds[1].get(kind, 0.0)) for kind in dict.fromkeys([*kinds[0], *kinds[1]])]
    moved = [(kind, a, b, b - a) for kind, a, b in rows if abs(b - a) > _NOISE * max(a, b)]
    return pd.DataFrame(sorted(moved, key=lambda row: -abs(row[3])), columns=columns)


def _effects(kind: ScenarioKind, first: Document, second: Document, before: Mapping) -> pd.DataFrame:
    """a with one top-level key as in b, for each that differs. Keys that make no scenario alone (devices without the
    degrees) change together; what is impossible even so says why."""
    keys = [
        key
        for key in dict.fromkeys([*first.data, *second.data])
        if key != "description" and first.data.get(key, _ABSENT) != second.data.get(key, _ABSENT)
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
