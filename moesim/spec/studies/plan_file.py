"""The file of a capacity plan: a model, a load, what users must get, and where to look for the cheapest way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.cost.exchange import KERNELS
from moesim.serving.lengths import LENGTHS
from moesim.serving.policy import PRESETS
from moesim.spec.hardware.fabric import FabricOptions
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.reading.quantities import GramsPerKilowattHour, Seconds, Usd, UsdPerHour, UsdPerKilowattHour
from moesim.spec.step.routing import Routing
from moesim.spec.step.scenario import Count, Parallelism, Precision
from moesim.spec.studies.resilience_scenario import Checkpoint, Failures, Recovery, SimulatedStep

Positive = Annotated[float, Field(gt=0)]


class PlannedLoad(Spec):
    """Requests per second over all servers, by a Poisson process, and their lengths. requests: that each look at a
    candidate serves."""

    rate: Positive
    input: kinds(LENGTHS)
    output: kinds(LENGTHS)
    requests: Annotated[int, Field(ge=50)] = 1000


class Objectives(Spec):
    """What so many percent of the requests must get."""

    percentile: Annotated[float, Field(gt=0, lt=100)] = 95.0
    ttft: Seconds
    tpot: Seconds


class SearchSpace(Spec):
    """One product to look at, and what may vary on it.

    software: the serving stack. devices: of one server. parallelism: degrees to try; all legal ones unless stated.
    spare_slots: expert slots a rank beyond those that the experts need, for replicas of hot ones. max_sequences: batch
    limits of a server. disaggregate: whether prefill has servers of its own. overlap: what finalists try, simulated
    step by step.
    """

    hardware: str
    software: Literal[tuple(PRESETS)]
    devices: Annotated[tuple[Count, ...], Field(min_length=1)]
    parallelism: tuple[Parallelism, ...] = ()
    precision: Annotated[tuple[Precision, ...], Field(min_length=1)]
    all_to_all: Literal[tuple(KERNELS)] = "nccl"
    spare_slots: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    max_sequences: Annotated[tuple[Count, ...], Field(min_length=1)] = (256,)
    disaggregate: tuple[bool, ...] = (False,)
    overlap: tuple[Literal["none", "shared_expert", "two_batch"], ...] = ("none",)
    options: FabricOptions = FabricOptions()


class Ownership(Spec):
    """Devices bought instead of rented. device: price of one with its share of everything around it. years: over which
    it is written off. upkeep: a year, as a share of the price (space, staff, repair; electricity is apart)."""

    device: Usd
    years: Positive
    upkeep: Annotated[float, Field(ge=0)] = 0.05


class Amortised(Spec):
    """Training cost spread over the tokens that the model will serve."""

    cost: Usd
    tokens_served: Positive


class Compared(Spec):
    """A dense model to serve the same load. training: what training it cost, for the break-even with `training` of
    the plan."""

    model: str
    training: Usd | None = None


class Economics(Spec):
    """Prices. rent: of one device by hardware, instead of the profile's. own: by hardware, instead of renting.

    electricity, pue (power into the building over power into the devices' racks): paid beside ownership; rent includes
    them. carbon: of the electricity. What is not stated is not counted, and the plan says so.
    """

    rent: dict[str, UsdPerHour] = Field(default_factory=dict)
    own: dict[str, Ownership] = Field(default_factory=dict)
    electricity: UsdPerKilowattHour | None = None
    pue: Annotated[float, Field(ge=1)] | None = None
    carbon: GramsPerKilowattHour | None = None
    training: Amortised | None = None


class Plan(Spec):
    """A capacity plan. See docs/plan.md for a tour of the keys.

    compare: dense models to serve the same load, for the break-even; NAME-dense-twin works. finalists: candidates that
    are simulated again, steps through the engine. runners_up: next to the cheapest.
    """

    description: str = ""
    model: str
    load: PlannedLoad
    slo: Objectives
    search: Annotated[tuple[SearchSpace, ...], Field(min_length=1)]
    routing: Routing
    economics: Economics = Economics()
    compare: tuple[Compared, ...] = ()
    finalists: Annotated[int, Field(ge=0, le=8)] = 2
    runners_up: Count = 5
    seed: Annotated[int, Field(ge=0)] = 0


class TrainingAlternative(Spec):
    """One way to train. name: in tables. step: a training scenario. spares: nodes at hand, which cost as others do."""

    name: str
    step: SimulatedStep
    spares: Annotated[int, Field(ge=0)] = 0


class TrainingPlan(Spec):
    """A training run planned: days, device-hours, money, energy. See docs/plan.md for a tour of the keys.

    tokens: to train on. failures, recovery, checkpoint: as in docs/resilience.md, for every alternative. economics:
    prices as in a capacity plan. seeds: runs of each alternative, each with its own failures.
    """

    description: str = ""
    tokens: Positive
    alternatives: Annotated[tuple[TrainingAlternative, ...], Field(min_length=1)]
    failures: Failures
    recovery: Recovery
    checkpoint: Checkpoint
    economics: Economics = Economics()
    seeds: Count = 16
    seed: Annotated[int, Field(ge=0)] = 0
