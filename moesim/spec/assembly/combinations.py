"""Features of a scenario that do not go together, each named with what to change."""

from __future__ import annotations

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import MoEModel
from moesim.spec.step.scenario import Scenario


def check_combinations(scenario: Scenario, model: MoEModel) -> None:
    """Raise InvalidInput with every combination that moesim cannot run. model: the part of it that runs."""
    problems = [
        *_offloaded(scenario, model), *_dropping(scenario, model), *_drafted(scenario), *_encoded(scenario, model),
    ]  # fmt: skip
    if problems:
        raise InvalidInput(problems)


def _offloaded(scenario: Scenario, model: MoEModel) -> list[Problem]:
    if scenario.offload is None:
        return []
    wrong = []
    if not model.moe_layers:
        wrong.append(Problem("the model has no routed experts to offload; drop this block", "offload"))
    if scenario.workload.kind != "decode":
        wrong.append(Problem("offloading replays decode steps; write 'decode'", "workload.kind"))
    if getattr(scenario.workload, "speculative", None) is not None:
        wrong.append(Problem("offloading replays one token a step; drop this block", "workload.speculative"))
    if getattr(scenario.workload, "source", None) is not None:
        wrong.append(Problem("offloading knows no encoders; choose a decoder", "model"))
    if scenario.routing.kind == "balanced":
        wrong.append(Problem("balanced routing has no order in time to cache; replay a trace", "routing.kind"))
    if scenario.placement.replica_choice != "round_robin":
        message = "offloading deals tokens to replicas in turn; write round_robin"
        wrong.append(Problem(message, "placement.replica_choice"))
    if scenario.capacity is not None:
        wrong.append(Problem("offloading knows no dropped tokens; drop this block", "capacity"))
    return wrong + _only_one(scenario, "offloading runs", "instances", "pp", "cp")


def _dropping(scenario: Scenario, model: MoEModel) -> list[Problem]:
    if scenario.capacity is None or model.moe_layers:
        return []
    return [Problem("the model has no routed experts that could drop tokens; drop this block", "capacity")]


def _drafted(scenario: Scenario) -> list[Problem]:
    if getattr(scenario.workload, "speculative", None) is None:
        return []
    return _only_one(scenario, "drafts are checked", "pp", "cp")


def _encoded(scenario: Scenario, model: MoEModel) -> list[Problem]:
    crosses = any(layer.cross_attention for layer in model.layers)
    if not crosses and model.stack != "encoder":
        return []
    wrong = []
    if crosses and scenario.parallelism.attention_dp > 1 and scenario.parallelism.tp > 1:
        message = "cross-attention runs data-parallel or tensor-parallel, not both; write 1 here or for attention_dp"
        wrong.append(Problem(message, "parallelism.tp"))
    return wrong + _only_one(scenario, "encoders, and decoders that attend to them, run", "pp", "cp")


def _only_one(scenario: Scenario, what: str, *degrees: str) -> list[Problem]:
    return [
        Problem(f"{what} with {degree} 1 only; write 1", f"parallelism.{degree}")
        for degree in degrees
        if getattr(scenario.parallelism, degree) > 1
    ]
