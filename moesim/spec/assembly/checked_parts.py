"""The parts that a scenario states directly, checked together: all that is wrong is told before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.cost.machine import Machine
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism, for_inference
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly.checks import check_all_to_all, check_overlap, check_pipeline
from moesim.spec.assembly.combinations import check_combinations
from moesim.spec.assembly.drawing import draw_trace, experts_of
from moesim.spec.assembly.parts import (
    batch_of,
    check_split,
    cluster_of,
    machine_of,
    parallelism_of,
    precision_of,
    stages_in,
)
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import Document
from moesim.spec.reading.problems import Problems
from moesim.spec.step.scenario import Scenario
from moesim.spec.step.workload import part_that_runs
from moesim.workload.deployment import Batch, PrecisionPolicy


def checked_scenario(document: Document) -> Scenario:
    """The file as a scenario. Raises InvalidInput with every problem of the file, impossible degrees included."""
    try:
        return document.check(Scenario)
    except InvalidInput as error:
        raise InvalidInput([*error.problems, *_wrong_degrees(document)]) from None


def _wrong_degrees(document: Document) -> tuple[Problem, ...]:
    """What the degrees of a file get wrong that is no scenario for another reason; () where they cannot be read."""
    cluster, degrees = document.data.get("cluster"), document.data.get("parallelism")
    if not (isinstance(cluster, dict) and isinstance(degrees, dict)):
        return ()
    known = ("attention_dp", "tp", "cp", "pp", "ep", "expert_tp")
    whole = {name: degrees[name] for name in known if name in degrees} | {"devices": cluster.get("devices")}
    if "instances" in degrees or not all(type(value) is int and value > 0 for value in whole.values()):
        return ()
    try:
        for_inference(Parallelism(**whole))
    except InvalidInput as error:
        return document.locate(error).problems
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a scenario states directly. held: the half of an encoder-decoder that does not run. trace: None without
    experts."""

    model: MoEModel
    held: MoEModel | None
    hardware: Hardware
    parallelism: Parallelism
    cluster: Cluster
    precision: PrecisionPolicy
    machine: Machine
    stage_layers: tuple[int, ...]
    batch: Batch
    trace: RouterTrace | None


def checked_parts(
    scenario: Scenario, document: Document, tell: Problems, model: MoEModel | None, trace: RouterTrace | None
) -> Parts:
    """The parts, each checked by itself and with the others; raises InvalidInput with all that is wrong with them."""
    running = (model, None)
    if model is None:
        whole = tell.attempt(lambda: load_model(scenario.model, beside=document.file), "")
        running = (whole and tell.attempt(lambda: part_that_runs(whole, scenario.workload), "")) or (None, None)
    model, held = running
    hardware = tell.attempt(lambda: load_profile(scenario.cluster.hardware, beside=document.file), "cluster")
    parallelism = tell.attempt(lambda: parallelism_of(scenario), "")
    cluster = hardware and parallelism and tell.attempt(lambda: cluster_of(scenario, hardware), "cluster")
    precision = hardware and tell.attempt(lambda: precision_of(scenario, hardware), "")
    machine = hardware and tell.attempt(lambda: machine_of(scenario, hardware), "")
    if cluster:
        tell.attempt(lambda: check_all_to_all(scenario, cluster), "network")
    stage_layers = None
    if model and parallelism:
        tell.attempt(lambda: check_split(model, parallelism), "")
        stage_layers = tell.attempt(lambda: stages_in(scenario, model), "")
    tell.attempt(lambda: check_pipeline(scenario), "")
    tell.attempt(lambda: check_overlap(scenario), "")
    if model:
        tell.attempt(lambda: check_combinations(scenario, model), "")
    batch = model and parallelism and batch_of(scenario, parallelism, model)
    if trace is None and batch and experts_of(model):
        trace = tell.attempt(lambda: draw_trace(scenario, model, batch, document), "routing")
    tell.raise_any()
    return Parts(model, held, hardware, parallelism, cluster, precision, machine, stage_layers, batch, trace)
