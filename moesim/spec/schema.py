"""JSON Schemas of the YAML files."""

from __future__ import annotations

from moesim.errors import InvalidInput

KINDS = (
    "scenario",
    "training",
    "serving",
    "profile",
    "model",
    "sweep",
    "resilience",
    "service",
    "plan",
    "training_plan",
    "baseline",
    "claim",
)


def json_schema(kind: str) -> dict:
    """The schema (draft 2020-12) of a kind of file. Raises InvalidInput for an unknown kind."""
    if kind == "scenario":
        from moesim.spec.step.scenario import Scenario as Schema
    elif kind == "training":
        from moesim.spec.training.scenario import TrainingScenario as Schema
    elif kind == "serving":
        from moesim.spec.serving.scenario import ServingScenario as Schema
    elif kind == "resilience":
        from moesim.spec.studies.resilience_scenario import TrainingRun as Schema
    elif kind == "training_plan":
        from moesim.spec.studies.plan_file import TrainingPlan as Schema
    elif kind == "plan":
        from moesim.spec.studies.plan_file import Plan as Schema
    elif kind == "service":
        from moesim.spec.studies.resilience_scenario import ServiceRun as Schema
    elif kind == "profile":
        from moesim.spec.hardware.profile import Profile as Schema
    elif kind == "model":
        from moesim.spec.model.file import ModelFile as Schema
    elif kind == "sweep":
        from moesim.spec.studies.sweep_file import SweepFile as Schema
    elif kind == "baseline":
        from moesim.spec.studies.baseline_file import BaselineFile as Schema
    elif kind == "claim":
        from moesim.spec.studies.claim_file import ClaimFile as Schema
    else:
        raise InvalidInput(f"there is no schema of {kind!r}; write one of {', '.join(KINDS)}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Schema.model_json_schema()}
