"""What differs between two runs, a table each; `moesim.study.comparison.compare.Comparison` says their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from moesim.spec.reading.loading import Document
from moesim.study.scenarios import Outcome, ScenarioKind
from moesim.study.sweeps.grid import as_text

# What the average rank does beside others' work, or not at all: the step less its operations one after another.
UNSTACKED = "idle less overlapped"
_ASIDE = ("schema_version", "breakdown_s.", "hbm.by_kind.", "provenance.")  # told elsewhere, or no result
_NOISE = 1e-8  # results carry nine digits
ABSENT = object()  # of a field that a file does not have


def fields_changed(first: Document, second: Document) -> pd.DataFrame:
    """Fields of the files that are not equal, in the order of the files."""
    before, after = (dict(_flat(document.data)) for document in (first, second))
    rows = [
        {"field": field, "a": _said(before, field), "b": _said(after, field)}
        for field in dict.fromkeys([*before, *after])
        if field != "description" and before.get(field, ABSENT) != after.get(field, ABSENT)
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


def figures_changed(kind: ScenarioKind, before: Mapping, after: Mapping) -> pd.DataFrame:
    """Numbers of the metrics that moved by more than their digits, and the kind's headline whether it moved or not."""
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


def operations_changed(one: Outcome, two: Outcome) -> pd.DataFrame:
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


def hot_spots_changed(before: Mapping, after: Mapping) -> pd.DataFrame:
    """The hottest rank, expert and link of both, in words."""
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


def memory_changed(before: Mapping, after: Mapping) -> pd.DataFrame:
    """HBM by kind, largest change first."""
    columns = ["kind", "a_bytes", "b_bytes", "change_bytes"]
    kinds = [(metrics.get("hbm") or {}).get("by_kind") or {} for metrics in (before, after)]
    rows = [(kind, kinds[0].get(kind, 0.0), kinds[1].get(kind, 0.0)) for kind in dict.fromkeys([*kinds[0], *kinds[1]])]
    moved = [(kind, a, b, b - a) for kind, a, b in rows if abs(b - a) > _NOISE * max(a, b)]
    return pd.DataFrame(sorted(moved, key=lambda row: -abs(row[3])), columns=columns)
