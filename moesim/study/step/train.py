"""Run a training scenario: from a document to metrics."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.engine.simulate import simulate
from moesim.engine.timeline import Timeline
from moesim.errors import InvalidInput
from moesim.network.fidelity import FIDELITIES
from moesim.spec.reading.loading import Document
from moesim.spec.training.assembly import TrainingAssembly, assemble_training, check_memory
from moesim.study.results.notebook import step_html
from moesim.study.results.record import origin, rounded
from moesim.study.step.routing_facts import dropping_metrics
from moesim.study.step.training_metrics import training_metrics
from moesim.workload.training.routed import Draws
from moesim.workload.training.step import TrainingStep, training_step


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A simulated training step. document: its file with the changes. metrics: what ``--json`` prints; the rest is for
    pictures and further study."""

    document: Document
    assembly: TrainingAssembly
    step: TrainingStep
    timeline: Timeline
    metrics: dict[str, object]

    def __repr__(self) -> str:
        return f"<TrainingResult of {self.metrics['scenario']}>"

    def _repr_html_(self) -> str:
        return step_html(self.metrics)


def run_training(document: Document, changes: tuple[str, ...] = ()) -> TrainingResult:
    """Simulate a training scenario. changes: what was replaced in it, for the record.

    Raises InvalidInput with every problem of the file, or Infeasible when a rank needs more than its HBM.
    """
    return run_training_assembly(document, assemble_training(document), changes)


def _dropped(draws: Draws | None) -> dict[str, object]:
    if draws is None or draws.dropped is None:
        return {}
    return {"dropped": dropping_metrics(draws.dropped, draws.alone)}


def run_training_assembly(
    document: Document, assembly: TrainingAssembly, changes: tuple[str, ...] = ()
) -> TrainingResult:
    """Simulate an assembled training scenario. Raises Infeasible, and InvalidInput when the network cannot carry it."""
    job = assembly.job
    try:
        step = training_step(job, assembly.line())
    except InvalidInput as error:
        raise document.locate(error, "cluster") from None
    needs = check_memory(document, assembly, step.draws)
    timeline = simulate(step.programs, FIDELITIES[job.fidelity].rates, job.network.capacity)
    metrics = {
        **origin(document),
        "title": assembly.title,
        "changes": list(changes),
        "description": assembly.scenario.description,
        "seed": assembly.scenario.seed,
        **training_metrics(job, step, timeline),
        **_dropped(step.draws),
        "lower_bound_s": timeline.lower_bound_s(),
        "upper_bound_s": timeline.upper_bound_s(),
        "hbm_bytes": needs.needed,
        "hbm": {"capacity": needs.capacity, "by_kind": needs.by_kind()},
        "provenance": assembly.provenance(),
    }
    return TrainingResult(document, assembly, step, timeline, rounded(metrics))
