"""A grid over the fields of a scenario: axes as people write them, and the scenarios at its points, all checked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moesim.errors import InvalidInput, Problem
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, parse, read
from moesim.spec.step.scenario_file import plain_value, read_scenario
from moesim.spec.studies.sweep_file import SweepFile
from moesim.study.results.inputs import Inputs
from moesim.study.scenarios import kind_of

Axes = Sequence[Mapping[str, Sequence[object]]]


@dataclass(frozen=True, slots=True)
class Point:
    """A scenario of the grid. values: of the varied fields. key: `Inputs.content_hash`, by which its result is kept."""

    document: Document
    values: Mapping[str, object]
    key: str

    @property
    def changes(self) -> tuple[str, ...]:
        """The varied fields as ``--set`` takes them."""
        return tuple(f"{field}={as_text(value)}" for field, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Grid:
    """base: the scenario that is varied. points: in the order of the axes, the last one fastest; none twice."""

    base: Document
    axes: tuple[Mapping[str, tuple[object, ...]], ...]
    points: tuple[Point, ...]
    metric: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The varied fields."""
        return tuple(field for axis in self.axes for field in axis)

    @property
    def leading(self) -> tuple[str, ...]:
        """One field of each axis, that with most values: enough to tell its steps apart."""
        return tuple(max(axis, key=lambda field: len({as_text(value) for value in axis[field]})) for axis in self.axes)


def parse_axis(text: str) -> dict[str, list[object]]:
    """``field=a,b,c`` as an axis; ``field+field=a,b,c`` gives several fields the same value. Values are YAML."""
    fields, equals, values = text.partition("=")
    names = [name.strip() for name in fields.split("+")]
    if not equals or not values.strip() or not all(names):
        raise InvalidInput(f"--over {text}: write FIELD=VALUE,VALUE…, e.g. workload.context=1024,4096")
    try:
        found = plain_value(f"[{values}]")
    except InvalidInput as error:
        raise InvalidInput([Problem(p.message, f"--over {text}") for p in error.problems]) from None
    return dict.fromkeys(names, found)


def read_grid(scenario: str, over: Axes = (), changes: Iterable[str] = ()) -> Grid:
    """The grid of a sweep file, or of a scenario and axes. Raises InvalidInput with every problem of any point.

    scenario: name or path. over: axes, each with the fields that change together on it. changes: ``field=value`` texts
    that hold everywhere; with a sweep file, `over` adds axes to those of the file.
    """
    source = _sweep_document(scenario)
    if source is None:
        return _grid(read_scenario(scenario, changes), over, None)
    file = source.check(SweepFile)
    try:
        base = read_scenario(str(library.find("scenario", file.scenario, beside=source.file)), changes)
    except InvalidInput as error:
        raise source.locate(error, "scenario") from None
    for field, value in file.set.items():
        base = _put(base, field, value, source.problem(("set", field), ""))
    return replace(_grid(base, [*file.over, *over], source), metric=file.metric)


def _sweep_document(scenario: str) -> Document | None:
    """The document of a sweep file; None when the name is one of a scenario."""
    path = Path(scenario)
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        return None
    document = read(path)
    return document if "over" in document.data or "scenario" in document.data else None


def _grid(base: Document, over: Axes, source: Document | None) -> Grid:
    axes = tuple({field: tuple(values) for field, values in axis.items()} for axis in over)
    if not axes:
        raise InvalidInput("a sweep needs something to vary: --over FIELD=VALUE,VALUE…")
    places = {
        field: source.problem(("over", number, field), "", at_key=True)
        if source and number < len(source.data["over"])
        else Problem("", field, "--over")
        for number, axis in enumerate(axes)
        for field in axis
    }
    _check_axes(axes, places)
    found: dict[tuple[str, str], Problem] = {}
    points: dict[str, Point] = {}
    schema, inputs = kind_of(base).schema, Inputs()
    for steps in itertools.product(*(_steps(axis) for axis in axes)):
        values = {field: value for step in steps for field, value in step.items()}
        document = base
        for field, value in values.items():
            document = _put(document, field, value, places[field])
        try:
            document.check(schema)
        except InvalidInput as error:
            for problem in error.problems:
                placed = _placed(problem, places)
                found.setdefault((placed.field, placed.message), placed)
        if not found:
            point = Point(document, values, inputs.content_hash(document))
            points.setdefault(point.key, point)
    if found:
        raise InvalidInput(found.values())
    return Grid(base, axes, tuple(points.values()))


def _steps(axis: Mapping[str, tuple[object, ...]]) -> list[dict[str, object]]:
    return [dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)]


def _check_axes(axes: Axes, places: Mapping[str, Problem]) -> None:
    wrong, seen = [], []
    for axis in axes:
        lengths = {field: len(values) for field, values in axis.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{field} has {length}" for field, length in lengths.items())
            wrong.append(replace(places[next(iter(axis))], message=f"fields of one axis need as many values: {told}"))
        for field, length in lengths.items():
            if not length:
                wrong.append(replace(places[field], message="has no values"))
            if any(other == field or other.startswith(field + ".") for other in seen):
                wrong.append(replace(places[field], message="an earlier axis varies it, or a field inside it"))
            seen.append(field)
    if wrong:
        raise InvalidInput(wrong)


def _put(document: Document, field: str, value: object, place: Problem) -> Document:
    try:
        return document.with_value(field, value)
    except (IndexError, TypeError):
        raise InvalidInput(replace(place, field=field, message="no such element of a list")) from None


def _placed(problem: Problem, places: Mapping[str, Problem]) -> Problem:
    """The problem at the axis that causes it, where one does."""
    for field, place in places.items():
        if problem.field == field or problem.field.startswith(field + ".") or field.startswith(problem.field + "."):
            return replace(place, field=problem.field, message=problem.message)
    return problem


def as_text(value: object) -> str:
    """A value as one writes it after ``--set FIELD=``."""
    if isinstance(value, str) and _reads_as(value, value):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _reads_as(text: str, value: object) -> bool:
    try:
        return parse(f"value: {text}").data["value"] == value
    except InvalidInput:
        return False
