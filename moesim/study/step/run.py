"""Run a scenario: from a file to metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moesim.engine.simulate import simulate
from moesim.engine.timeline import Timeline
from moesim.errors import InvalidInput
from moesim.network.fidelity import FIDELITIES
from moesim.spec.assembly.parts import overlap_of
from moesim.spec.assembly.step import Assembly, assemble
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.training.assembly import is_training
from moesim.study.results.notebook import step_html
from moesim.study.results.record import origin, rounded
from moesim.study.step.metrics import per_step, step_metrics
from moesim.study.step.offload import offload_metrics, offload_needs, simulate_offload
from moesim.study.step.routing_facts import dropping_metrics, router_metrics
from moesim.study.step.speculative import speculative_metrics
from moesim.study.step.train import TrainingResult, run_training
from moesim.workload.encoding import with_held
from moesim.workload.footprint import Footprint, check_fits, footprint, largest_batch
from moesim.workload.inference import Step, inference_step
from moesim.workload.remedies import remedies
from moesim.workload.speculative import speculative_footprint, speculative_step


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A simulated scenario. document: its file with the changes. metrics: what `moesim run --json` prints; the rest is
    for pictures and further study."""

    document: Document
    assembly: Assembly
    step: Step
    timeline: Timeline
    metrics: dict[str, object]

    def __repr__(self) -> str:
        return f"<Result of {self.metrics['scenario']}>"

    def _repr_html_(self) -> str:
        return step_html(self.metrics)


def run_scenario(name_or_path: str, changes: Iterable[str] = ()) -> Result | TrainingResult:
    """Simulate a scenario, by name or path. changes: ``field=value`` texts that replace fields of the file.

    A workload of kind ``training`` gives a `TrainingResult`. Raises InvalidInput with every problem of the file, or
    Infeasible when the step does not fit in HBM.
    """
    changes = tuple(changes)
    return run_step(read_scenario(name_or_path, changes), changes)


def run_step(document: Document, changes: tuple[str, ...] = ()) -> Result | TrainingResult:
    """`run_scenario` of a file that has been read. changes: what was replaced in it, for the record."""
    if is_training(document):
        return run_training(document, changes)
    return run_assembly(document, assemble(document), changes)


def run_assembly(document: Document, assembly: Assembly, changes: tuple[str, ...] = ()) -> Result:
    """Simulate an assembled scenario. changes: what was replaced in it, for the record.

    Raises Infeasible when the step does not fit in HBM, and InvalidInput when the network cannot carry it.
    """
    try:
        step, timeline, needs, drafting = _simulated(assembly)
    except InvalidInput as error:
        raise document.locate(error, "cluster") from None
    found = step_metrics(assembly.deployment, assembly.batch, step, timeline)
    if assembly.offload is not None:
        found = per_step(found, assembly.scenario.offload.steps) | {"offload": offload_metrics(assembly, timeline)}
    if assembly.draft is not None:
        found = speculative_metrics(found, assembly.draft, step, timeline, drafting)
    if assembly.scenario.router is not None and assembly.routes is not None:
        found["router"] = router_metrics(assembly.deployment, assembly.batch, assembly.route_cache)
    if assembly.dropped is not None:
        found["dropped"] = dropping_metrics(assembly.dropped, (assembly.routes.count == 0).mean(axis=1))
    metrics = {
        **origin(document),
        "title": assembly.title,
        "changes": list(changes),
        "description": assembly.scenario.description,
        "seed": assembly.scenario.seed,
        **found,
        "hbm_bytes": needs.needed,
        "hbm": {
            "capacity": needs.capacity,
            "by_kind": needs.by_kind(),
            # With offloading, experts make room for sequences; encoders cache nothing, or another half's keys.
            "largest_batch": None
            if assembly.offload is not None or assembly.deployment.held is not None or not assembly.batch.causal
            else largest_batch(
                assembly.deployment, assembly.batch, step.most_received, **assembly.scenario.memory.shares()
            ),
        },
        "provenance": assembly.provenance(),
    }
    return Result(document, assembly, step, timeline, rounded(metrics))


def _simulated(assembly: Assembly) -> tuple[Step, Timeline, Footprint, int]:
    """The step, or the steps that offloading replays, what happened in them, and the HBM that they need; and how many
    of the operations draft tokens."""
    if assembly.offload is not None:
        step, timeline = simulate_offload(assembly)
        return step, timeline, offload_needs(assembly, step), 0
    drafting = 0
    overlap = overlap_of(assembly.scenario)
    if assembly.draft is None:
        step = inference_step(assembly.deployment, assembly.batch, assembly.routes, overlap)
    else:
        step, drafting = speculative_step(assembly.deployment, assembly.draft, assembly.batch, assembly.routes, overlap)
    needs = footprint(assembly.deployment, assembly.batch, step.most_received, **assembly.scenario.memory.shares())
    needs = with_held(needs, assembly.deployment, assembly.batch)
    if assembly.draft is not None:
        needs = speculative_footprint(needs, assembly.draft, assembly.batch)
    memory = assembly.scenario.memory.shares()
    alone = assembly.deployment.held is None
    check_fits(
        needs, lambda: remedies(assembly.deployment, assembly.batch, step.most_received, **memory) if alone else ()
    )
    rates = FIDELITIES[assembly.scenario.network.fidelity].rates
    return step, simulate(step.programs, rates, assembly.deployment.network.capacity), needs, drafting
