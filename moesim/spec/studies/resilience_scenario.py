"""The file of a training run over weeks: what fails, what is saved, and what the job does about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.resilience.failures import SCOPES
from moesim.resilience.recovery import RECOVERIES, Loss, Response
from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.loading import Spec
from moesim.spec.reading.quantities import Bytes, BytesPerSecond, Seconds
from moesim.spec.step.scenario import Count

Slowdown = Annotated[float, Field(ge=1)]


class StatedStep(Spec):
    """A step without a scenario: its seconds on so many devices in servers of `node`. tokens: of one step."""

    time: Seconds
    devices: Count
    node: Count = 8
    tokens: Count


class SimulatedStep(Spec):
    """A step that the engine simulates: a scenario by name or path, and fields changed in it."""

    scenario: str
    set: tuple[str, ...] = ()


class Failing(Spec):
    """Units that fail alike.

    mtbf: of one unit. repair: until it is back. devices: that one takes along, of switches and power domains.
    slowdown: the step takes so many times as long meanwhile, instead of stopping (links, stragglers).
    """

    mtbf: Seconds
    repair: Seconds
    devices: Count | None = None
    slowdown: Slowdown | None = None


class Failures(Spec):
    """What can fail. detection: from a failure until the job knows. log: a CSV file with columns hours and scope of
    recorded failures, which happen beside the random ones; each scope in it is stated here too."""

    detection: Seconds
    device: Failing | None = None
    node: Failing | None = None
    link: Failing | None = None
    switch: Failing | None = None
    power_domain: Failing | None = None
    straggler: Failing | None = None
    log: str | None = None

    def classes(self) -> dict[str, Failing]:
        """Those that are stated, by name."""
        names = (*SCOPES, "straggler")
        return {name: found for name in names if (found := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _units_and_slowdowns(self) -> Failures:
        wrong = []
        for name, stated in self.classes().items():
            sized = name in ("switch", "power_domain")
            if sized and stated.devices is None:
                wrong.append((f"{name}.devices", f"say how many devices one {name.replace('_', ' ')} takes along"))
            if not sized and stated.devices is not None:
                wrong.append((f"{name}.devices", "is counted on the topology; leave it out"))
            if name == "straggler" and stated.slowdown is None:
                wrong.append(("straggler.slowdown", "say how much longer a step takes, e.g. 1.2"))
            if stated.mtbf == 0:
                wrong.append((f"{name}.mtbf", "must be above zero; write e.g. '50000 h'"))
        if wrong:
            raise Wrong(*wrong)
        return self


class Recovery(Spec):
    """What the job does when devices die (see `moesim.resilience.recovery`).

    restart: to start the job again, without loading. regroup: to form the groups anew without the lost ranks (reroute,
    drop). replica_devices: of one data-parallel replica (shrink); a training scenario says it itself. survives: devices
    lost at once that reroute and drop can bear.
    """

    kind: Literal[tuple(RECOVERIES)]
    restart: Seconds
    regroup: Seconds | None = None
    replica_devices: Count | None = None
    survives: Count = 1

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Recovery:
        if self.kind in ("reroute", "drop") and self.regroup is None:
            raise Wrong(("regroup", f"{self.kind} needs it: how long groups take to form anew, e.g. '60 s'"))
        return self

    def bind(self, replica_devices: int | None) -> Callable[[Loss], Response]:
        """The policy with its keys. replica_devices: what the step's scenario says of it."""
        keys = {"restart_s": self.restart}
        if self.kind == "shrink":
            size = self.replica_devices or replica_devices
            if size is None:
                raise ValueError("shrink needs the devices of one data-parallel replica")
            keys["replica_devices"] = size
        elif self.kind != "restart":
            keys |= {"regroup_s": self.regroup, "survives": self.survives}
        return partial(RECOVERIES[self.kind], **keys)


class Checkpoint(Spec):
    """What is saved, where to, and how often.

    kind: ``full`` (the ranks of one data-parallel replica write all of it), ``sharded`` (every node writes its part) or
    ``delta`` (sharded, without the experts that no token chose since). interval: of work between two, or ``daly``, or
    ``best`` (the one with the largest simulated goodput). size: of the whole state; a training scenario says it itself.
    bandwidth: of the storage. node_bandwidth: of one node's way there. asynchronous: the job stands only while devices
    copy to host memory, and writes in the background. keep: checkpoints kept at once, in `storage`. snapshot: seconds
    of that copy, where no profile says how fast it goes.
    """

    kind: Literal["full", "sharded", "delta"] = "sharded"
    interval: Seconds | Literal["daly", "best"]
    size: Bytes | None = None
    bandwidth: BytesPerSecond
    node_bandwidth: BytesPerSecond
    asynchronous: bool = False
    snapshot: Seconds | None = None
    storage: Bytes
    keep: Count = 2

    def rate(self, nodes: int) -> float:
        """Bytes/s that so many nodes read or write together."""
        return min(self.bandwidth, nodes * self.node_bandwidth)


class TrainingRun(Spec):
    """A training run over weeks. See docs/resilience.md for a tour of the keys.

    step: what is repeated. duration: wall time to simulate, or tokens: work to be done. spares: nodes at hand.
    slowdown_without_rank: of the step under reroute and drop, where the engine cannot measure it on a decode or prefill
    scenario. dropped_without_rank: share of token-expert pairs that drop then drops.
    seeds: runs, each with its own failures.
    """

    description: str = ""
    step: SimulatedStep | StatedStep
    duration: Seconds | None = None
    tokens: Annotated[float, Field(gt=0)] | None = None
    failures: Failures
    recovery: Recovery
    spares: Annotated[int, Field(ge=0)] = 0
    slowdown_without_rank: Slowdown | None = None
    dropped_without_rank: Annotated[float, Field(ge=0, le=1)] | None = None
    checkpoint: Checkpoint
    seeds: Count = 32
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_end(self) -> TrainingRun:
        if (self.duration is None) == (self.tokens is None):
            raise Wrong(("duration", "write either duration (wall time) or tokens (work)"))
        return self


class ServiceRun(Spec):
    """A service through failures. See docs/resilience.md for a tour of the keys.

    serving: the scenario of the fleet and its load. duration: wall time over which failures are drawn. spares: nodes at
    hand. slowdown_without_rank, dropped_without_rank: of reroute and drop, instead of what the engine measures on the
    fleet's own decode step. seeds: runs, each with its own failures.
    """

    description: str = ""
    serving: SimulatedStep
    duration: Seconds
    failures: Failures
    recovery: Recovery
    spares: Annotated[int, Field(ge=0)] = 0
    slowdown_without_rank: Slowdown | None = None
    dropped_without_rank: Annotated[float, Field(ge=0, le=1)] | None = None
    seeds: Count = 32
    seed: Annotated[int, Field(ge=0)] = 0
