"""Measured closed-loop runs, simulated once and condensed so that thousands of constants can be tried on them.

In a closed loop the sequence of steps hardly depends on how long they take: who runs beside whom is decided by lengths
and limits. A run is therefore simulated once and its steps are kept with two weights each: mean TTFT and TPOT are sums
of step times under these weights (`moesim.serving.journal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from moesim.errors import MoesimError
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.serving.simulate import simulate
from moesim.serving.stack import Constants, Counts, StackSteps
from moesim.study.validation.serving.predict import Server, build_server
from moesim.study.validation.serving.rows import ServingRow, age, load, policy, read_row, stack_of

STACKS = tuple(PRESETS)
SHAPE = ("sequences", "total", "context", "prefill_tokens", "prefill_total", "attended", "prompts")
_STEPS_PER_OCTAVE = np.array([2, 2, 0, 1.5, 1.5, 0, 1])  # how finely steps are told apart when runs are condensed


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A simulated run, condensed. steps: [step, shape]; ttft_weight, tpot_weight: [step] how often a step of this shape
    counts in the mean; serial: requests in the front end before one, on average, itself included."""

    steps: np.ndarray
    ttft_weight: np.ndarray
    tpot_weight: np.ndarray
    serial: float


def schedule(row: ServingRow, server: Server, constants: Constants) -> Schedule:
    """Simulate a run and condense its journal. Raises as `kv_capacity` does."""
    rules, requests = policy(row), load(row)
    capacity = kv_capacity(server.deployment, rules, row.input_len + row.output_len // 2)
    steps = StackSteps(server.tables, server.counts, constants, row.age)
    pool = Pool(rules, steps, capacity, server.deployment.parallelism.attention_dp)
    frontend = Frontend(constants.frontend_fixed, constants.frontend_request)
    run = simulate(requests, Fleet(pool, frontend=frontend), rng=np.random.default_rng(0), journal_rows=None)
    ended = int(np.isfinite(run.outcome.finished_s).sum())
    if not ended:
        raise MoesimError("no request fits the server")
    journal = run.journals[0].table()
    shapes = np.stack([journal[name] for name in SHAPE], axis=1)
    # A chunk of one token is no step without prompts.
    kinds = np.where(shapes > 0, np.rint(np.log2(np.maximum(shapes, 1)) * _STEPS_PER_OCTAVE), -1)
    _, of = np.unique(kinds, axis=0, return_inverse=True)
    of = of.reshape(-1)
    count = journal["steps"]
    total = np.bincount(of, count)
    steps = np.stack([np.bincount(of, count * column) / total for column in shapes.T], axis=1)
    per_step = journal["seconds"] / ended
    ttft, tpot = (np.bincount(of, count * journal[name] / ended) for name in ("waiting", "slowness"))
    at_server = float((per_step * journal["waiting"]).sum())
    front = float(np.nanmean(run.outcome.ttft_s())) - at_server
    serial = max(front - frontend.fixed_s, 0.0) / frontend.request_s
    return Schedule(steps, ttft, tpot, serial)


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """All runs of a table side by side. Arrays [step] are indexed by `run` into arrays [run].

    parts: kernel seconds by kind. counts: kernels a layer. stack: index into `STACKS`. age: years.
    """

    table: pd.DataFrame
    parts: dict[str, np.ndarray]
    steps: np.ndarray
    weights: tuple[np.ndarray, np.ndarray]
    run: np.ndarray
    counts: Counts
    stack: np.ndarray
    serial: np.ndarray
    age: np.ndarray

    def subset(self, chosen: np.ndarray) -> Runs:
        """The runs that a mask selects."""
        number = np.cumsum(chosen) - 1
        keep = chosen[self.run]
        return Runs(
            self.table[chosen].reset_index(drop=True),
            {name: part[keep] for name, part in self.parts.items()},
            self.steps[keep],
            tuple(weight[keep] for weight in self.weights),
            number[self.run[keep]],
            Counts(*(getattr(self.counts, f.name)[keep] for f in fields(Counts))),
            self.stack[chosen],
            self.serial[chosen],
            self.age[chosen],
        )


def build_runs(
    table: pd.DataFrame,
    servers: dict,
    constants: dict[str, Constants],
    progress: Callable[[int, int], None] | None = None,
) -> Runs:
    """Simulate every run with the constants given. servers: by configuration, filled in where missing; rows that
    cannot be simulated are left out."""
    kept, schedules, of_run = [], [], []
    for index, record in enumerate(table.to_dict("records")):
        if progress is not None:
            progress(index + 1, len(table))
        try:
            row = read_row(record)
            if row.configuration not in servers:
                servers[row.configuration] = build_server(row.configuration)
            stack = stack_of(row.configuration.software)
            schedules.append(schedule(row, servers[row.configuration], constants[stack]))
        except (MoesimError, ValueError):
            continue
        kept.append(index)
        of_run.append(servers[row.configuration])
    run = np.repeat(np.arange(len(kept)), [len(s.steps) for s in schedules])
    parts = [server.tables.parts(*s.steps.T) for server, s in zip(of_run, schedules, strict=True)]
    counts = [[float(getattr(server.counts, f.name)) for f in fields(Counts)] for server in of_run]
    chosen = table.iloc[kept].reset_index(drop=True)
    return Runs(
        chosen,
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        np.concatenate([s.steps for s in schedules]),
        tuple(np.concatenate([getattr(s, name) for s in schedules]) for name in ("ttft_weight", "tpot_weight")),
        run,
        Counts(*np.array(counts)[run].T),
        np.array([STACKS.index(stack_of(name)) for name in chosen["software"]]),
        np.array([s.serial for s in schedules]),
        np.array([age(date) for date in chosen.get("measured", pd.Series(index=chosen.index, dtype=object))]),
    )
