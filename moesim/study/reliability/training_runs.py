"""Training runs over weeks: goodput, availability and lost device-hours, as distributions over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput
from moesim.resilience.checkpoints import expected_stretch
from moesim.resilience.process import STATES, Job, Operations, RunLog
from moesim.resilience.training_run import run_training
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.resilience_scenario import TrainingRun
from moesim.study.reliability.operations import plan_run
from moesim.study.reliability.over_seeds import KeptSeeds, spread
from moesim.study.reliability.step_facts import StepFacts, step_facts
from moesim.study.results.notebook import spread_html
from moesim.study.results.record import origin, rounded, scenario_hash


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
