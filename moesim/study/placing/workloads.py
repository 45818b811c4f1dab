"""What a placement study learns from and judges by: parts of the scenario's trace, other traces, counted loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.load import LoadTable, open_load_table
from moesim.routing.replay import check_geometry, select_sequences, split_in_time
from moesim.routing.trace import RouterTrace, open_trace
from moesim.spec.assembly.placing import Site
from moesim.spec.assembly.step import Assembly
from moesim.spec.reading import library
from moesim.spec.step.routing import BootstrapRouting


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Tokens to learn from or to judge by. load: [layer, expert] counts that the trace was drawn from, or None."""

    name: str
    trace: RouterTrace
    load: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Workloads:
    """learned: what placements learn from. judged: the tokens after it, or the scenario's own. others: what else they
    are judged by."""

    learned: Workload
    judged: Workload
    others: tuple[Workload, ...]


def workloads(
    assembly: Assembly, site: Site, file: str, share: float, learn: str | None, judge_on: Sequence[str]
) -> Workloads:
    """The parts that a study asks for.

    file: of the scenario. share: of its sequences that are the earlier part, to learn from, unless `learn` names
    another workload. learn, judge_on: a label of the scenario's trace, or a capture, or a load table, by name or path.
    Without judge_on, the sequences of the scenario's trace that its ``labels`` leave out are the other workload, if
    there are any.
    Raises InvalidInput naming the option and every workload that cannot be used.
    """
    problems: list[Problem] = []

    def named(name: str, field: str) -> Workload | None:
        try:
            return _named(name, field, assembly, site, file)
        except InvalidInput as error:
            problems.extend(Problem(p.message, p.field or field, p.file) for p in error.problems)
            return None

    source = assembly.trace
    learned, judged = named(learn, "learn") if learn else None, Workload(source.name, source)
    if not learn:
        try:
            earlier, later = split_in_time(source, share)
            learned = Workload(f"earlier part of {source.name}", earlier, None)
            judged = Workload(f"later part of {source.name}", later)
        except InvalidInput as error:
            problems.extend(error.problems)
    others = [named(name, "judge_on") for name in judge_on]
    if problems:
        raise InvalidInput(problems)
    if not judge_on and (rest := _left_out(assembly, file)):
        others.append(rest)
    return Workloads(learned, judged, tuple(others))


def _named(name: str, field: str, assembly: Assembly, site: Site, file: str) -> Workload:
    whole = _whole_trace(assembly, file)
    if name in whole.labels:
        return Workload(name, select_sequences(whole, np.flatnonzero(np.array(whole.labels) == name)))
    known = sorted(set(whole.labels))
    try:
        path = library.find("trace", name, beside=file, field=field)
    except InvalidInput as error:
        hint = f"; the labels of {whole.name} are {', '.join(known)}" if known else ""
        raise InvalidInput(Problem(f"{error.problems[0].message}{hint}", field)) from None
    opened = _open(path)
    load = None
    if isinstance(opened, LoadTable):
        load = opened.load
        rng = np.random.default_rng((site.seed, 1))
        opened = BootstrapRouting(kind="bootstrap", table=str(path)).build(
            site.geometry, max(assembly.trace.tokens, 1), rng, file
        )
        load = load if load.shape == (opened.layers, opened.experts) else None
    check_geometry(opened, site.geometry.experts, site.geometry.top_k)
    if opened.layers != assembly.trace.layers:
        message = f"{name} has {opened.layers} MoE layers, the scenario's trace {assembly.trace.layers}"
        raise InvalidInput(
            Problem(f"{message}; layers of the two do not correspond, so use traces of one model", field)
        )
    return Workload(name, opened, load)


def _open(path: Path) -> RouterTrace | LoadTable:
    """A trace, or else a load table; the error of the trace where it is neither."""
    try:
        return open_trace(path)
    except InvalidInput as error:
        try:
            return open_load_table(path)
        except InvalidInput:
            raise error from None


def _whole_trace(assembly: Assembly, file: str) -> RouterTrace:
    """The trace with all its labels, also those that the scenario does not replay."""
    routing = assembly.scenario.routing
    if routing.kind != "trace":
        return assembly.trace
    return open_trace(library.find("trace", routing.trace, beside=file, field="trace"))


def _left_out(assembly: Assembly, file: str) -> Workload | None:
    routing = assembly.scenario.routing
    if routing.kind != "trace" or not routing.labels:
        return None
    whole = _whole_trace(assembly, file)
    rest = np.flatnonzero(~np.isin(whole.labels, routing.labels))
    if not rest.size:
        return None
    return Workload(", ".join(sorted({whole.labels[sequence] for sequence in rest})), select_sequences(whole, rest))
