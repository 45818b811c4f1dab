"""Any scenario, whatever its kind: told by its keys, checked and run by the same functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from moesim.errors import Infeasible, InvalidInput, Problem
from moesim.spec.reading.loading import Document, Spec
from moesim.spec.serving.assembly import serving_assembly
from moesim.spec.serving.scenario import ServingScenario
from moesim.spec.step.scenario import Scenario
from moesim.spec.studies.resilience_scenario import ServiceRun, TrainingRun
from moesim.spec.training.scenario import TrainingScenario
from moesim.study.step.run import run_step


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


def _run_weeks(document: Document, changes: tuple[str, ...]) -> Outcome:
    from moesim.study.reliability.training_runs import runs_of

    return runs_of(document)


def _run_service(document: Document, changes: tuple[str, ...]) -> Outcome:
    from moesim.study.reliability.service_runs import service_of

    return service_of(document)


def _run_serving(document: Document, changes: tuple[str, ...]) -> Outcome:
    from moesim.study.serving_load.serve import serve

    return serve(serving_assembly(document))


# The key that only files of the kind have, or KEY:KIND where it is the kind of what stands there -> the kind.
KINDS: dict[str, ScenarioKind] = {
    "workload:training": ScenarioKind(
        "training",
        TrainingScenario,
        run_step,
        ("step_time_s", "tokens_per_s_per_device", "mfu", "bubble_share", "exposed_communication_s", "hbm_bytes"),
        "tokens_per_s_per_device",
    ),
    "workload": ScenarioKind(
        "step",
        Scenario,
        run_step,
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
    "serving": ScenarioKind(
        "service run",
        ServiceRun,
        _run_service,
        ("goodput_share", "availability.mean", "all_up.mean", "lost_device_hours.mean"),
        "goodput_share",
    ),
    "checkpoint": ScenarioKind(
        "training run",
        TrainingRun,
        _run_weeks,
        ("goodput.mean", "goodput.p10", "availability.mean", "lost_device_hours.mean", "tokens_per_s.mean"),
        "goodput.mean",
    ),
}


def kind_of(document: Document) -> ScenarioKind:
    """The kind of a scenario's file. Raises InvalidInput where no key tells it."""
    for name, kind in KINDS.items():
        key, _, inner = name.partition(":")
        inside = document.data.get(key)
        if key in document.data and (not inner or (isinstance(inside, dict) and inside.get("kind") == inner)):
            return kind
    wanted = " or ".join(f"'{key}' ({kind.name})" for key, kind in KINDS.items() if ":" not in key)
    raise InvalidInput(Problem(f"cannot tell what this simulates; write the key {wanted}", "", document.file, 1, 1))


def run_document(document: Document, changes: tuple[str, ...] = ()) -> Outcome:
    """Simulate a scenario of any kind. changes: what was replaced in it, for the record.

    Raises InvalidInput with every problem of the file, or Infeasible when it does not fit.
    """
    return kind_of(document).run(document, changes)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a run. status: ok, infeasible, invalid, failed; reason: why it is not ok; metrics: empty then."""

    status: str
    reason: str
    metrics: dict[str, object]


def attempt(document: Document, changes: tuple[str, ...] = ()) -> Attempt:
    """`run_document` for studies of many runs, where one that goes wrong is a result too."""
    try:
        return Attempt("ok", "", run_document(document, changes).metrics)
    except Infeasible as error:
        return Attempt("infeasible", str(error), {})
    except InvalidInput as error:
        return Attempt("invalid", str(error), {})
    except Exception as error:
        return Attempt("failed", f"{type(error).__name__}: {error}", {})


def figure(metrics: Mapping[str, object], name: str) -> float | None:
    """A number of the metrics by its dotted name, e.g. ``ttft_s.p99``; None where there is none."""
    value: object = metrics
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
