"""From a YAML file to a checked value, with every problem of the file at its line and column.

    scenario = load("scenarios/quickstart.yaml", Scenario)

A problem reads ``scenarios/a.yaml:10:5: links.1.latency: 1 has no unit; write one, e.g. '1 us'``. All problems of a
file come at once in one `InvalidInput`; only a syntax error hides what stands behind it. Where a check needs more than
the schema (a device count that the topology cannot have), keep the `Document` and ask it where the field stands:

    document = read(path)
    scenario = document.check(Scenario)
    try:
        cluster = build_cluster(hardware, scenario.cluster.devices)
    except InvalidInput as error:
        raise document.locate(error, under="cluster") from None

The YAML read here is 1.2's core schema without anchors: ``on`` and ``no`` are text, not booleans, ``9e11`` is a number,
not text, ``1:30`` is text, not base 60, and nothing constructs Python objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from moesim.errors import InvalidInput, Problem
from moesim.spec.reading.complaints import complaints

FieldPath = tuple[str | int, ...]
DEEPEST = 100  # levels; JSON, by which values are checked, goes little deeper
Schema = TypeVar("Schema", bound=BaseModel)


class Spec(BaseModel):
    """Base of every schema: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Document:
    """The plain data of a YAML file and where each key (`keys`) and value (`values`) stands: (line, column) from 1.

    problems: what is wrong whatever the schema says (duplicate keys, tags); `check` raises them with the rest.
    """

    file: str
    data: dict
    keys: Mapping[FieldPath, tuple[int, int]]
    values: Mapping[FieldPath, tuple[int, int]]
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without folder and ending, as results call the scenario."""
        return Path(self.file).name.removesuffix(".yaml")

    def check(self, schema: type[Schema]) -> Schema:
        """The file as a value of `schema`; raises InvalidInput with every problem, in the order of the file."""
        found = list(self.problems)
        try:
            # JSON is the strict mode that still takes lists for tuples; text is never taken for a number.
            value = schema.model_validate_json(json.dumps(self.data), strict=True)
        except ValidationError as error:
            found += [self.problem(*complaint) for complaint in complaints(error, schema, self.data)]
        if found:
            raise InvalidInput(sorted(found, key=lambda problem: (problem.line, problem.column)))
        return value

    def problem(self, field: str | FieldPath, message: str, at_key: bool = False) -> Problem:
        """A problem of one field (``cluster.devices``) at its place; a missing field is placed at its parent."""
        path = _path(field)
        place = self.keys.get(path) if at_key else None
        parent = path
        while place is None:
            place = self.values.get(parent, (1, 1) if not parent else None)
            parent = parent[:-1]
        return Problem(message, ".".join(map(str, path)), self.file, *place)

    def locate(self, error: InvalidInput, under: str = "") -> InvalidInput:
        """The same error with file, line and column for problems that name a field of this document below `under`."""
        return InvalidInput(
            problem if problem.file else self.problem(".".join(filter(None, (under, problem.field))), problem.message)
            for problem in error.problems
        )

    def with_value(self, field: str, value: object) -> Document:
        """A copy with one value replaced or added, as an option of the command line or a sweep does."""

        def put(data: object, path: FieldPath) -> object:
            if not path:
                return value
            copy = list(data) if isinstance(data, list) else dict(data) if isinstance(data, dict) else {}
            inside = copy[path[0]] if isinstance(copy, list) else copy.get(path[0])
            copy[path[0]] = put(inside, path[1:])
            return copy

        return replace(self, data=put(self.data, _path(field)))


def load(path: str | Path, schema: type[Schema]) -> Schema:
    """Read and check a YAML file. Raises InvalidInput with every problem found."""
    return read(path).check(schema)


def read(path: str | Path) -> Document:
    """Read a YAML file (UTF-8, one mapping). Raises InvalidInput where it is not YAML; `check` finds the rest."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(Problem(f"is not UTF-8 text (byte {error.start})", file=str(path))) from None
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
    return parse(text, str(path))


def parse(text: str, file: str = "<text>") -> Document:
    """`read` for text that is already in memory."""
    reader = _Reader(file, {}, {}, [])
    try:
        root = _compose(text)
        data = reader.plain(root, ()) if isinstance(root, yaml.MappingNode) else None
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(_syntax_problem(error, file)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        raise InvalidInput(Problem(f"remove the character #x{error.character:02x}", "", file, line, column)) from None
    except RecursionError:
        raise InvalidInput(Problem("is nested too deeply", file=file)) from None
    if data is None:
        raise InvalidInput(Problem("write a mapping of keys and values here", file=file, line=1, column=1))
    return Document(file, data, reader.keys, reader.values, tuple(reader.problems))


def _compose(text: str) -> yaml.Node:
    """The root node. libyaml is ten times as fast; PyYAML's own parser words what is wrong, and refuses anchors.

    libyaml overruns the stack on tens of thousands of levels, which need as many brackets or a line as long.
    """
    deepest = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if "&" not in text and deepest < 10_000:
        try:
            return yaml.compose(text, Loader=_FastLoader)
        except yaml.YAMLError:
            pass
    return yaml.compose(text, Loader=_CoreLoader)


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2 core schema, without aliases (no cycles, no exponential files)."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 (PyYAML's own hook)

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="aliases are not read; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*$")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_CoreLoader.add_implicit_resolver("int", _INTEGER, list("-+0123456789"))
_CoreLoader.add_implicit_resolver("float", _FLOAT, list("-+.0123456789"))
_CoreLoader.add_implicit_resolver("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_CoreLoader.add_implicit_resolver("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The same schema; aliases need an anchor, and text with one never comes here."""

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers


_CONSTRUCT = {
    "int": int,
    "float": float,
    "bool": lambda text: text.lower() == "true",
    "null": lambda text: None,
    "tag:yaml.org,2002:str": str,
}


@dataclass(slots=True)
class _Reader:
    """Walks the nodes of one file once, keeping the place of everything."""

    file: str
    keys: dict[FieldPath, tuple[int, int]]
    values: dict[FieldPath, tuple[int, int]]
    problems: list[Problem]

    def plain(self, node: yaml.Node, path: FieldPath) -> object:
        """The node as dict, list or scalar."""
        self.values[path] = _place(node)
        if len(path) > DEEPEST:
            return self._wrong(node, path[:3], f"is nested deeper than {DEEPEST} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*path, index)) for index, child in enumerate(node.value)]
        try:
            return _CONSTRUCT[node.tag](node.value)
        except KeyError:
            self._wrong(node, path, f"the tag {node.tag!r} is not read; write a plain value")
        except ValueError:
            self._wrong(node, path, f"cannot read the number {node.value!r}")

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict:
        data = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(key, path, "a key must be a word")
                continue
            inside = (*path, key.value)
            if key.value in data:
                first = self.keys[inside][0]
                self._wrong(key, inside, f"duplicate key, first written on line {first}; keep one of the two")
                continue
            self.keys[inside] = _place(key)
            data[key.value] = self.plain(value, inside)
        return data

    def _wrong(self, node: yaml.Node, path: FieldPath, message: str) -> None:
        self.problems.append(Problem(message, ".".join(map(str, path)), self.file, *_place(node)))


def _path(field: str | FieldPath) -> FieldPath:
    if isinstance(field, tuple):
        return field
    return tuple(int(part) if part.isdigit() else part for part in field.split(".")) if field else ()


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = ", ".join(part for part in (error.context, error.problem) if part) or "cannot be read as YAML"
    if "'\\t'" in what:
        what += "; indent with spaces"
    return Problem(what, file=file, line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None)
