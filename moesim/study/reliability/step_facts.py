"""What a run over weeks needs to know of the step that it repeats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.fabrics.build import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parameters import mtp_parameters, parameters
from moesim.resilience.checkpoints import touched_share
from moesim.routing.latent import Geometry
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario import Scenario
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.resilience_scenario import SimulatedStep, StatedStep
from moesim.spec.training.assembly import is_training
from moesim.spec.training.scenario import TrainingScenario
from moesim.study.step.run import run_step
from moesim.workload.training.optimizer import OPTIMIZERS


@dataclass(frozen=True, slots=True, eq=False)
class StepFacts:
    """One step. seconds with their 80 % interval; tokens: of the step; node_devices: of a server.

    cluster: None where only numbers were stated. state_bytes: weights, master weights and optimizer states, each once;
    expert_share: of it that belongs to routed experts; replica_devices: that hold it once (NaN, 0 where nobody said).
    host_link: bytes/s of one device to its host, None where unknown. touched: share of experts that so many tokens
    choose; None without routing. source: in words.
    """

    seconds: float
    low_s: float
    high_s: float
    tokens: int
    devices: int
    node_devices: int
    source: str
    cluster: Cluster | None = None
    state_bytes: float = math.nan
    expert_share: float = math.nan
    replica_devices: int = 0
    host_link: float | None = None
    touched: Callable[[float], float] | None = None

    def units(self, scope: str, devices_per_unit: int | None) -> tuple[int, int]:
        """(units, devices of each) of a failure scope, as `moesim.resilience.failures.units_of` counts them."""
        if scope in ("device", "link", "straggler"):
            return self.devices, 1
        size = self.node_devices if scope == "node" else devices_per_unit
        return -(-self.devices // size), min(size, self.devices)


def step_facts(step: SimulatedStep | StatedStep, document: Document) -> StepFacts:
    """Simulate the step once, or take what is stated. Raises InvalidInput and Infeasible as its scenario does."""
    if isinstance(step, StatedStep):
        return StepFacts(
            step.time,
            step.time,
            step.time,
            step.tokens,
            step.devices,
            min(step.node, step.devices),
            "step time as stated",
        )
    try:
        inner = read_scenario(step.scenario, step.set, beside=document.file)
    except InvalidInput as error:
        raise document.locate(error, "step.scenario") from None
    if "workload" not in inner.data:
        wrong = f"names {inner.name}, which has no 'workload'; name a scenario of a single step"
        raise InvalidInput(document.problem("step.scenario", wrong))
    metrics = run_step(inner).metrics
    scenario = inner.check(TrainingScenario if is_training(inner) else Scenario)
    hardware = load_profile(scenario.cluster.hardware, beside=inner.file)
    cluster = build_cluster(hardware, scenario.cluster.devices, **scenario.cluster.options.choices())
    model = load_model(scenario.model, beside=inner.file)
    seconds = metrics["step_time_s"]
    state, share, replica = (
        _state(scenario, model) if isinstance(scenario, TrainingScenario) else (math.nan, math.nan, 0)
    )
    return StepFacts(
        seconds,
        metrics["step_time_low_s"],
        metrics["step_time_high_s"],
        round(metrics["tokens_per_s"] * seconds),
        cluster.ranks,
        int(np.unique(cluster.node, return_counts=True)[1].max()),
        f"{metrics['title']}: {seconds:.3g} s a step, simulated",
        cluster,
        state,
        share,
        replica,
        hardware.host.link_bytes_per_s,
        _touched(scenario, model, inner) if model.moe_layers else None,
    )


def _state(scenario: TrainingScenario, model: MoEModel) -> tuple[float, float, int]:
    """(bytes, share of routed experts, devices that hold them once) of what a training job saves."""
    precision = scenario.precision
    optimizer = OPTIMIZERS[scenario.optimizer.kind](**scenario.optimizer.options())
    master = 0.0 if precision.master_weights == "none" else PRECISIONS[precision.master_weights].bytes
    states = optimizer.matrix_states * PRECISIONS[precision.optimizer_states].bytes
    per_parameter = PRECISIONS[precision.weights].bytes + master + states
    counted = parameters(model)
    total = counted.total + (mtp_parameters(model) if scenario.workload.mtp_layers else 0)
    degrees = scenario.parallelism
    replica = degrees.pp * max(degrees.tp * degrees.cp, degrees.ep * degrees.expert_tp)
    return total * per_parameter, counted.routed_experts / total, replica


def _touched(scenario: object, model: MoEModel, document: Document) -> Callable[[float], float]:
    """Share of experts that so many tokens choose under the scenario's routing, which is read when it is asked for."""

    def share(tokens: float) -> float:
        experts = model.layers[model.moe_layers[0]].experts
        geometry = Geometry(len(model.moe_layers), experts.routed, experts.top_k, experts.groups, experts.kept_groups)
        rng = np.random.default_rng((scenario.seed, 1))
        return touched_share(scenario.routing.build(geometry, 16_384, rng, document.file), tokens)

    return share
