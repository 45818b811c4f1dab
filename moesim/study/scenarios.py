"""Any scenario, whatever its kind: told by its keys, checked and run by the same functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import moesim
from moesim.errors import InvalidInput, Problem
from moesim.spec.assembly import assemble
from moesim.spec.loading import Document, Spec, read
from moesim.spec.resilience_scenario import TrainingRun
from moesim.spec.scenario import Scenario
from moesim.spec.serving_scenario import ServingScenario, serving_assembly
from moesim.study.run import run_assembly

_FILES = (".yaml", ".yml", ".json", ".safetensors", ".csv", ".jsonl", ".parquet")


class Outcome(Protocol):
    """What every kind of run yields. metrics: what ``--json`` prints."""

    metrics: dict[str, object]


@dataclass(frozen=True, slots=True)
class ScenarioKind:
    """A kind of scenario. schema: of its file. run: simulates a checked file. headline: the figures that people compare
    first, as dotted names in the metrics. plotted: the figure that a sweep draws."""

    name: str
    schema: type[Spec]
    run: Callable[[Document, tuple[str, ...]], Outcome]
    headline: tuple[str, ...]
    plotted: str


def _run_step(document: Document, changes: tuple[str, ...]) -> Outcome:
    return run_assembly(document, assemble(document), changes)


def _run_weeks(document: Document, changes: tuple[str, ...]) -> Outcome:
    from moesim.study.resilience import runs_of

    return runs_of(document)


def _run_serving(document: Document, changes: tuple[str, ...]) -> Outcome:
    from moesim.study.serve import serve

    return serve(serving_assembly(document))


# The key that only files of the kind have -> the kind.
KINDS: dict[str, ScenarioKind] = {
    "workload": ScenarioKind(
        "step",
        Scenario,
        _run_step,
        ("step_time_s", "tokens_per_s_per_device", "exposed_communication_s", "waiting_s", "hbm_bytes"),
        "tokens_per_s_per_device",
    ),
    "load": ScenarioKind(
        "serving",
        ServingScenario,
        _run_serving,
        ("ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99", "output_tokens_per_s_per_device", "cached_share"),
        "output_tokens_per_s_per_device",
    ),
    "failures": ScenarioKind(
        "training run",
        TrainingRun,
        _run_weeks,
        ("goodput.mean", "goodput.p10", "availability.mean", "lost_device_hours.mean", "tokens_per_s.mean"),
        "goodput.mean",
    ),
}


def kind_of(document: Document) -> ScenarioKind:
    """The kind of a scenario's file. Raises InvalidInput where no key tells it."""
    for key, kind in KINDS.items():
        if key in document.data:
            return kind
    wanted = " or ".join(f"'{key}' ({kind.name})" for key, kind in KINDS.items())
    raise InvalidInput(Problem(f"cannot tell what this simulates; write the key {wanted}", "", document.file, 1, 1))


def run_document(document: Document, changes: tuple[str, ...] = ()) -> Outcome:
    """Simulate a scenario of any kind. changes: what was replaced in it, for the record.

    Raises InvalidInput with every problem of the file, or Infeasible when it does not fit.
    """
    return kind_of(document).run(document, changes)


def content_hash(document: Document) -> str:
    """16 hexadecimal digits that stand for everything a run's result depends on: the scenario's data, the version of
    moesim, and the content of the user's own files that it names (profiles, models, traces; what they name too)."""
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _named_files(document, set())}
    whole = {"data": document.data, "moesim": moesim.__version__, "files": files}
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _named_files(document: Document, seen: set[Path]) -> Iterator[tuple[str, Path]]:
    for text in _texts(document.data):
        if not text.endswith(_FILES):
            continue  # a shipped name: the version stands for it
        found = next((p for p in (Path(text), Path(document.file).parent / text) if p.is_file()), None)
        if found is None or found.resolve() in seen:
            continue
        seen.add(found.resolve())
        yield text, found
        if found.suffix in (".yaml", ".yml"):
            yield from _named_files(read(found), seen)


def _texts(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)
