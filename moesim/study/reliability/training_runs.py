"""Training runs over weeks: goodput, availability and lost device-hours, as distributions over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.resilience.checkpoints import Checkpointing, check_storage, daly, delta, expected_stretch, young
from moesim.resilience.failures import FailureClass
from moesim.resilience.process import STATES, Job, Operations, RunLog
from moesim.resilience.training_run import goodput_by_interval, run_training
from moesim.spec.loading import Document
from moesim.spec.resilience_scenario import TrainingRun
from moesim.spec.scenario_file import read_scenario
from moesim.study.reliability.over_seeds import KeptSeeds, recorded_failures, spread
from moesim.study.reliability.step_facts import StepFacts, step_facts
from moesim.study.results.notebook import spread_html
from moesim.study.results.record import origin, rounded, scenario_hash

_AROUND_DALY = (0.125, 0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0, 8.0)  # intervals tried for ``best``, of Daly's
_TRIED_SEEDS = 8
_REFINEMENTS = 4  # of the interval of a delta, whose pause depends on it


@dataclass(frozen=True, slots=True, eq=False)
class ResilienceResult:
    """metrics: what ``--json`` prints. table: one row a seed. first: the run of the first seed, for pictures; None when
    it was kept from before. curve: goodput by checkpoint interval, empty unless ``interval: best``."""

    metrics: dict[str, object]
    table: pd.DataFrame
    first: RunLog | None
    curve: pd.DataFrame

    def _repr_html_(self) -> str:
        names = ("goodput", "availability", "tokens_per_s", "lost_device_hours")
        return spread_html(str(self.metrics["scenario"]), self.metrics, names)


def simulate_runs(
    name_or_path: str,
    changes: Iterable[str] = (),
    *,
    keep: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ResilienceResult:
    """Simulate a training run over weeks, once a seed.

    keep: a folder for the rows of finished seeds, where an interrupted study goes on. An interruption keeps what is
    there and marks the result. Raises InvalidInput with every problem of the file.
    """
    return runs_of(read_scenario(name_or_path, changes), keep=keep, progress=progress)


def runs_of(
    document: Document, *, keep: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> ResilienceResult:
    """`simulate_runs` of a document."""
    scenario = document.check(TrainingRun)
    facts = step_facts(scenario.step, document)
    try:
        job, operations, saved, curve = plan_run(scenario, facts, document)
    except InvalidInput as error:
        raise document.locate(error) from None
    kept = KeptSeeds(keep, scenario_hash(document))
    first, complete = None, True
    for number in range(scenario.seeds):
        if progress is not None:
            progress(number, scenario.seeds)
        if number in kept.rows:
            continue
        try:
            log = run_training(job, operations, np.random.default_rng((scenario.seed, number)))
        except KeyboardInterrupt:
            complete = False
            break
        first = log if number == 0 else first
        kept.add(number, _row(number, log, job, facts))
    if progress is not None:
        progress(scenario.seeds, scenario.seeds)
    table = kept.table()
    if table.empty:
        raise KeyboardInterrupt
    metrics = _metrics(document, scenario, facts, job, operations, saved, table) | {"complete": complete}
    return ResilienceResult(rounded(metrics), table, first, curve)


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

    def with_interval(interval: float) -> Operations:
        checkpoint, _ = _checkpointing(scenario, facts, interval)
        return replace(operations, checkpointing=checkpoint)

    interval, curve = scenario.checkpoint.interval, pd.DataFrame(columns=["interval_s", "goodput", "low", "high"])
    if not isinstance(interval, float):
        if math.isinf(mtbf):
            raise InvalidInput(Problem("nothing stops this job; write a time, e.g. '1 h'", "checkpoint.interval"))
        interval = _dalys(scenario, facts, mtbf)
        if scenario.checkpoint.interval == "best":
            tried = [factor * interval for factor in _AROUND_DALY]
            horizon = job if job.horizon_s is None else replace(job, work_s=None)
            seeds = range(scenario.seed, scenario.seed + _TRIED_SEEDS)
            found = goodput_by_interval(horizon, tried, with_interval, seeds)
            low, high = np.percentile(found, (10, 90), axis=1)
            curve = pd.DataFrame({"interval_s": tried, "goodput": found.mean(axis=1), "low": low, "high": high})
            interval = tried[int(found.mean(axis=1).argmax())]
    checkpoint, saved = _checkpointing(scenario, facts, interval)
    saved |= {"mtbf_s": mtbf, "young_s": young(checkpoint.pause_s, mtbf), "daly_s": daly(checkpoint.pause_s, mtbf)}
    return job, replace(operations, checkpointing=checkpoint), saved, curve


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


def _row(number: int, log: RunLog, job: Job, facts: StepFacts) -> dict[str, object]:
    """One run in a row of plain numbers."""
    lost = (log.wall_s - log.spent["work"]) * job.devices / 3600
    return {
        "seed": number,
        "goodput": log.goodput,
        "availability": log.availability,
        "wall_s": log.wall_s,
        "tokens": log.spent["work"] / facts.seconds * facts.tokens,
        "lost_device_hours": lost,
        "checkpoints": log.checkpoints,
        "dropped_share": log.dropped,
        "stopped": log.stopped,
        **{f"{state}_s": log.spent[state] for state in STATES},
        **{f"{name}_failures": count for name, count in sorted(log.failures.items())},
    }


def _metrics(
    document: Document,
    scenario: TrainingRun,
    facts: StepFacts,
    job: Job,
    operations: Operations,
    saved: dict[str, float],
    table: pd.DataFrame,
) -> dict[str, object]:
    checkpoint = operations.checkpointing
    restart = scenario.failures.detection + scenario.recovery.restart + checkpoint.load_s
    anchor = math.nan
    if math.isfinite(saved["mtbf_s"]):
        anchor = 1 / expected_stretch(checkpoint.interval_s, checkpoint.pause_s, restart, saved["mtbf_s"])
    finished = table[table["stopped"] == ""]
    stopped = [str(reason) for reason in table["stopped"].unique() if reason]
    seconds = table["wall_s"].sum()
    failures = [column for column in table if str(column).endswith("_failures")]
    return {
        **origin(document),
        "description": scenario.description,
        "seed": scenario.seed,
        "seeds": len(table),
        "step": {
            "seconds": facts.seconds, "low_s": facts.low_s, "high_s": facts.high_s, "tokens": facts.tokens,
            "devices": facts.devices, "node_devices": facts.node_devices, "source": facts.source,
        },
        "mtbf_s": saved["mtbf_s"],
        "checkpoint": {
            "interval_s": checkpoint.interval_s, "pause_s": checkpoint.pause_s, "write_s": checkpoint.write_s,
            "load_s": checkpoint.load_s, **{k: v for k, v in saved.items() if k != "mtbf_s"},
        },
        "goodput": spread(table["goodput"]),
        "goodput_by_daly": anchor,
        "availability": spread(table["availability"]),
        "tokens_per_s": spread(table["tokens"] / table["wall_s"]),
        "wall_s": spread(finished["wall_s"]) if job.work_s is not None else None,
        "lost_device_hours": spread(table["lost_device_hours"]),
        "dropped_share": float(table["dropped_share"].mean()),
        "spent_share": {state: float(table[f"{state}_s"].sum() / seconds) for state in STATES},
        "failures": {column.removesuffix("_failures"): float(table[column].mean()) for column in failures},
        "stopped": stopped,
    }  # fmt: skip
