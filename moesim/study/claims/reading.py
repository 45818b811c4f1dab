"""From claim files to claims with every point of their grids written out, all checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moesim.errors import InvalidInput, Problem
from moesim.spec.reading import library
from moesim.spec.reading.complaints import did_you_mean
from moesim.spec.reading.formula import Formula, parse_formula
from moesim.spec.reading.kinds import Kind
from moesim.spec.reading.loading import Document, FieldPath, read
from moesim.spec.studies import claim_file
from moesim.spec.studies.claim_file import ClaimFile, Figure
from moesim.study.claims.measures import MEASURES, document_of
from moesim.study.results.inputs import Inputs

_MEASURED = claim_file.measured_by(MEASURES)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One call of a measure. key: hash of everything that its result depends on. file, field: where it is written."""

    key: str
    kind: str
    options: Mapping[str, object]
    file: str
    field: FieldPath


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a claim's grid. values: of its variables. runs: name → what is measured there."""

    values: Mapping[str, object]
    runs: Mapping[str, Measurement]


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A claim, ready to be decided. steps: the first variable of each axis and its values, in the order of the file."""

    id: str
    says: str
    note: str
    undecidable: str
    steps: Mapping[str, Sequence[object]]
    points: tuple[Point, ...]
    figures: Mapping[str, tuple[Figure, Formula]]
    document: Document

    def problem(self, field: FieldPath, message: str) -> Problem:
        """A problem of a field below the claim, at its place in the file."""
        return self.document.problem(("claims", self.id, *field), message)


def shipped_files() -> tuple[Path, ...]:
    """The claim files that ship with moesim."""
    return tuple(sorted((library.folder("scenario") / "claims").glob("*.yaml")))


def read_claims(files: Iterable[str | Path] = (), wanted: Iterable[str] = ()) -> tuple[Claim, ...]:
    """The claims of some files (by default those shipped), sorted by id. wanted: ids of those to keep; all if empty.

    Raises InvalidInput with every problem of every file: unknown keys, measures, scenarios, variables, figures' names.
    """
    wanted, inputs = frozenset(wanted), Inputs()
    stated: dict[str, tuple[claim_file.Claim, Document]] = {}
    problems: list[Problem] = []
    for path in files or shipped_files():
        try:
            document = read(path)
            for name, claim in document.check(ClaimFile).claims.items():
                if name in stated:
                    told = f"is also in {stated[name][1].file}; give it another id"
                    problems.append(document.problem(("claims", name), told, at_key=True))
                stated[name] = claim, document
        except InvalidInput as error:
            problems += error.problems
    problems += [] if problems else _unknown(wanted, stated)
    claims = []
    for name in sorted(stated if problems or not wanted else wanted):
        try:
            claims.append(_claim(name, *stated[name], inputs))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(dict.fromkeys(problems))
    return tuple(claims)


def _unknown(wanted: Iterable[str], known: Iterable[str]) -> list[Problem]:
    known = tuple(known)
    return [
        Problem(f"no claim is named {name!r}{did_you_mean(name, known)}", "ID") for name in wanted if name not in known
    ]


def _claim(name: str, stated: claim_file.Claim, document: Document, inputs: Inputs) -> Claim:
    place = ("claims", name)
    _check_axes(stated, document, place)
    steps = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in stated.over]
    figures = {key: (figure, parse_formula(figure.formula)) for key, figure in stated.figures.items()}
    points = []
    for chosen in itertools.product(*steps):
        values = {key: value for step in chosen for key, value in step.items()}
        points.append(Point(values, dict(_runs(name, values, document, inputs))))
    claim = Claim(
        name,
        stated.says.strip(),
        stated.note.strip(),
        stated.undecidable.strip(),
        {next(iter(axis)): next(iter(axis.values())) for axis in stated.over},
        tuple(points) if figures else (),
        figures,
        document,
    )
    _check_names(claim)
    return claim


def _check_axes(stated: claim_file.Claim, document: Document, place: FieldPath) -> None:
    problems, seen = [], set()
    for number, axis in enumerate(stated.over):
        where = (*place, "over", number)
        if len({len(values) for values in axis.values()}) > 1:
            told = ", ".join(f"{variable} has {len(values)}" for variable, values in axis.items())
            problems.append(document.problem(where, f"variables of one axis need as many values: {told}"))
        for variable in axis:
            if variable in seen or variable in stated.runs:
                problems.append(document.problem((*where, variable), "an earlier axis or a run has this name"))
            seen.add(variable)
    if problems:
        raise InvalidInput(problems)


def _runs(
    name: str, values: Mapping[str, object], document: Document, inputs: Inputs
) -> Iterator[tuple[str, Measurement]]:
    place = ("claims", name, "runs")
    written = document.data["claims"][name]
    filled = {
        run: _filled(options, values, document, (*place, run)) for run, options in written.get("runs", {}).items()
    }
    # The same places in the file, but with values for variables, and only this claim.
    only = replace(document, data={"claims": {name: written | {"runs": filled}}})
    problems = []
    for run, kind in only.check(_MEASURED).claims[name].runs.items():
        try:
            yield run, _measurement(kind, document, (*place, run), inputs)
        except InvalidInput as error:
            problems += [
                document.problem((*place, run, "set" if problem.field else "scenario"), f"{problem}")
                if problem.file or problem.line
                else document.problem((*place, run, *problem.field.split(".")), problem.message)
                for problem in error.problems
            ]
    if problems:
        raise InvalidInput(problems)


def _filled(data: object, values: Mapping[str, object], document: Document, place: FieldPath) -> object:
    """The data with the value of a variable for each ``$name``."""
    if isinstance(data, dict):
        return {key: _filled(value, values, document, (*place, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, values, document, (*place, index)) for index, value in enumerate(data)]
    if isinstance(data, str) and data.startswith("$"):
        if data[1:] not in values:
            known = did_you_mean(data[1:], values) or f"; 'over' has {', '.join(values) or 'none'}"
            raise InvalidInput(document.problem(place, f"no variable is named {data[1:]!r}{known}"))
        return values[data[1:]]
    return data


def _measurement(kind: Kind, document: Document, field: FieldPath, inputs: Inputs) -> Measurement:
    written = kind.model_dump(mode="json")
    about = document_of(kind.kind, written, document.file)
    whole = {"run": written, "inputs": inputs.content_hash(about)}
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return Measurement(key, kind.kind, kind.options(), document.file, field)


def _check_names(claim: Claim) -> None:
    """Formulas name runs and numeric variables; what a run holds shows when it has run."""
    problems = []
    for key, (_, formula) in claim.figures.items():
        for name in formula.names:
            head = name.partition(".")[0]
            runs, values = claim.points[0].runs, claim.points[0].values
            if "." in name and head not in runs:
                told = f"no run is named {head!r}{did_you_mean(head, runs)}"
                problems.append(claim.problem(("figures", key, "formula"), told))
            elif "." not in name and not isinstance(values.get(name), (int, float)):
                told = f"{name!r} is no variable with numbers; write RUN.figure or one of {', '.join(values) or 'none'}"
                problems.append(claim.problem(("figures", key, "formula"), told))
    if problems:
        raise InvalidInput(problems)
