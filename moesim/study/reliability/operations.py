"""From the file of a training run to the job and its operation: what fails, how it recovers, how often it is saved."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.resilience.checkpoints import Checkpointing, check_storage, daly, delta, young
from moesim.resilience.failures import FailureClass
from moesim.resilience.process import Job, Operations
from moesim.resilience.training_run import goodput_by_interval
from moesim.spec.reading.loading import Document
from moesim.spec.studies.resilience_scenario import TrainingRun
from moesim.study.reliability.over_seeds import recorded_failures
from moesim.study.reliability.step_facts import StepFacts

_AROUND_DALY = (0.125, 0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0, 8.0)  # intervals tried for ``best``, of Daly's
_TRIED_SEEDS = 8
_REFINEMENTS = 4  # of the interval of a delta, whose pause depends on it


def plan_run(
    scenario: TrainingRun, facts: StepFacts, document: Document
) -> tuple[Job, Operations, dict[str, float], pd.DataFrame]:
    """The job, how it is run, what a checkpoint saves (for the record), and goodput by interval where it was sought."""
    classes = tuple(
        FailureClass(name, *facts.units(name, stated.devices), stated.mtbf, stated.repair, stated.slowdown or 0.0)
        for name, stated in scenario.failures.classes().items()
    )
    work = None if scenario.tokens is None else scenario.tokens / facts.tokens * facts.seconds
    job = Job(facts.devices, facts.node_devices, work, scenario.duration)
    try:
        recover = scenario.recovery.bind(facts.replica_devices or None)
    except ValueError as error:
        raise InvalidInput(Problem(f"{error}; write it", "recovery.replica_devices")) from None
    stopping = sum(of.rate for of in classes if not of.slowdown)
    mtbf = 1 / stopping if stopping else math.inf
    operations = Operations(
        classes,
        Checkpointing(math.inf, 0.0, 0.0, 0.0),
        recover,
        scenario.failures.detection,
        scenario.spares,
        _without_rank(scenario),
        recorded_failures(scenario.failures.log, classes, document),
    )

    interval, curve = scenario.checkpoint.interval, pd.DataFrame(columns=["interval_s", "goodput", "low", "high"])
    if not isinstance(interval, float):
        if math.isinf(mtbf):
            raise InvalidInput(Problem("nothing stops this job; write a time, e.g. '1 h'", "checkpoint.interval"))
        interval = _dalys(scenario, facts, mtbf)
        if scenario.checkpoint.interval == "best":
            interval, curve = _best(scenario, facts, job, operations, interval)
    checkpoint, saved = _checkpointing(scenario, facts, interval)
    saved |= {"mtbf_s": mtbf, "young_s": young(checkpoint.pause_s, mtbf), "daly_s": daly(checkpoint.pause_s, mtbf)}
    return job, replace(operations, checkpointing=checkpoint), saved, curve


def _best(
    scenario: TrainingRun, facts: StepFacts, job: Job, operations: Operations, around: float
) -> tuple[float, pd.DataFrame]:
    """The interval with most goodput of some around Daly's, and goodput by interval with its 80 % range over seeds."""

    def with_interval(interval: float) -> Operations:
        return replace(operations, checkpointing=_checkpointing(scenario, facts, interval)[0])

    tried = [factor * around for factor in _AROUND_DALY]
    horizon = job if job.horizon_s is None else replace(job, work_s=None)
    seeds = range(scenario.seed, scenario.seed + _TRIED_SEEDS)
    found = goodput_by_interval(horizon, tried, with_interval, seeds)
    low, high = np.percentile(found, (10, 90), axis=1)
    curve = pd.DataFrame({"interval_s": tried, "goodput": found.mean(axis=1), "low": low, "high": high})
    return tried[int(found.mean(axis=1).argmax())], curve


def _dalys(scenario: TrainingRun, facts: StepFacts, mtbf: float) -> float:
    """Daly's interval; a delta's pause grows with the interval, so the two are found in turns."""
    interval = mtbf
    for _ in range(_REFINEMENTS):
        checkpoint, _ = _checkpointing(scenario, facts, interval)
        interval = daly(max(checkpoint.pause_s, 1e-3), mtbf)
    return interval


def _checkpointing(scenario: TrainingRun, facts: StepFacts, interval: float) -> tuple[Checkpointing, dict[str, float]]:
    """Seconds and bytes of checkpoints so far apart."""
    stated = scenario.checkpoint
    size = whole = stated.size or facts.state_bytes
    if math.isnan(whole):
        raise InvalidInput(Problem("say how large the state is: the step's scenario does not", "checkpoint.size"))
    touched = math.nan
    if stated.kind == "delta":
        if facts.touched is None or math.isnan(facts.expert_share):
            told = "a delta needs a training scenario of a MoE model as its step, for the routing; write sharded"
            raise InvalidInput(Problem(told, "checkpoint.kind"))
        touched = facts.touched(interval / facts.seconds * facts.tokens)
        size = delta(whole, expert_share=facts.expert_share, touched=touched)
    check_storage(whole, stated.keep, stated.storage)
    nodes = -(-facts.devices // facts.node_devices)
    writers = nodes
    if stated.kind == "full":
        replica = scenario.recovery.replica_devices or facts.replica_devices
        if not replica:
            told = "full needs the devices that hold the state once; write it, or write kind: sharded"
            raise InvalidInput(Problem(told, "recovery.replica_devices"))
        writers = -(-min(replica, facts.devices) // facts.node_devices)
    write = size / stated.rate(writers)
    pause = write
    if stated.asynchronous:
        pause = stated.snapshot
        if pause is None and facts.host_link:
            pause = size / (facts.devices * facts.host_link)
        if pause is None:
            told = "say how long the copy to host memory takes: the profile does not say how fast its host link is"
            raise InvalidInput(Problem(told, "checkpoint.snapshot"))
    checkpoint = Checkpointing(interval, pause, max(write, pause), whole / stated.rate(nodes))
    return checkpoint, {"bytes": size, "state_bytes": whole, "experts_touched": touched}


def _without_rank(scenario: TrainingRun) -> tuple[float, float]:
    """(slowdown, dropped share) of the step without one rank, for the policies that go on without it."""
    if scenario.recovery.kind not in ("reroute", "drop"):
        return math.nan, 0.0
    missing = [name for name in ("slowdown_without_rank", "dropped_without_rank") if getattr(scenario, name) is None]
    if scenario.recovery.kind == "reroute":
        missing = [name for name in missing if name.startswith("slow")]
    if missing:
        told = f"{scenario.recovery.kind} needs it; `moesim resilience` measures it on a serving scenario"
        raise InvalidInput([Problem(told, name) for name in missing])
    return scenario.slowdown_without_rank, scenario.dropped_without_rank or 0.0
