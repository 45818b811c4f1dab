"""Predict TTFT and TPOT of measured closed-loop runs, every row of a table.

Predictions come from the columns that describe a run (`moesim.study.validation.serving.rows`); measured columns may be
absent and never have an influence. Rows of one configuration share their kernel tables; finished configurations are
kept in a folder, so that an interrupted validation goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import MoesimError
from moesim.serving.effects import features
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.kernels import KernelTables, kernel_tables
from moesim.serving.loads import REALISTIC_SIGMA, DrawnLoads
from moesim.serving.memory import kv_capacity
from moesim.serving.simulate import simulate
from moesim.serving.stack import Constants, Counts, StackSteps, kernel_counts
from moesim.spec.serving.constants import Fitted, load_fitted
from moesim.study.validation.serving.kept import Found, Kept, Prediction, row_key
from moesim.study.validation.serving.rows import (
    Configuration,
    ServingRow,
    deployment,
    load,
    policy,
    read_row,
    stack_of,
)
from moesim.workload.deployment import Deployment

MEASURED = ("ttft_s", "tpot_s")
ADDED = ("predicted_ttft_s", "predicted_tpot_s", "ttft_low_s", "ttft_high_s", "tpot_low_s", "tpot_high_s")


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """What all rows of a configuration share."""

    deployment: Deployment
    tables: KernelTables
    counts: Counts


def build_server(configuration: Configuration, sigma: float = REALISTIC_SIGMA) -> Server:
    """Tabulate the kernels of a configuration. Raises InvalidInput or Infeasible."""
    placed = deployment(configuration)
    return Server(placed, kernel_tables(placed, DrawnLoads(sigma)), kernel_counts(placed))


def predict_row(row: ServingRow, server: Server, constants: Constants) -> Prediction:
    """Simulate one run."""
    rules, requests = policy(row), load(row)
    capacity = kv_capacity(server.deployment, rules, row.input_len + row.output_len // 2)
    pool = Pool(
        rules,
        StackSteps(server.tables, server.counts, constants, row.age),
        capacity,
        server.deployment.parallelism.attention_dp,
    )
    frontend = Frontend(constants.frontend_fixed, constants.frontend_request)
    run = simulate(requests, Fleet(pool, frontend=frontend), rng=np.random.default_rng(0), journal_rows=1000)
    outcome = run.outcome
    if not np.isfinite(outcome.finished_s).any():
        return Prediction(math.nan, math.nan, len(requests))
    tpot = outcome.tpot_s(requests.output_len)
    # One token has no gap after it: such a run has no TPOT, but a step time that stands for it.
    mean = float(np.nanmean(tpot)) if np.isfinite(tpot).any() else math.nan
    rejected = int((~np.isfinite(outcome.finished_s)).sum())
    return Prediction(float(np.nanmean(outcome.ttft_s())), mean, rejected)


def predict_serving(
    table: pd.DataFrame,
    *,
    fitted: Fitted | None = None,
    sigma: float = REALISTIC_SIGMA,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The table with `ADDED` columns, ``note`` and ``reason``; rows that cannot be predicted have NaN and a reason.

    fitted: constants and intervals, by default those that ship. sigma: of the assumed popularity of experts. cache:
    folder that keeps predictions of finished configurations. progress: called with (rows done, rows).
    """
    fitted = fitted or load_fitted()
    predicted = {name: np.full(len(table), np.nan) for name in ADDED}
    note, reason = (np.full(len(table), "", dtype=object) for _ in range(2))
    rows: dict[Configuration, list[tuple[int, ServingRow]]] = {}
    for index, record in enumerate(table.to_dict("records")):
        try:
            row = read_row(record)
            rows.setdefault(row.configuration, []).append((index, row))
        except MoesimError as error:
            reason[index] = str(error)
    done = len(table) - sum(map(len, rows.values()))
    for configuration, members in rows.items():
        found = _configuration(configuration, [row for _, row in members], fitted, sigma, cache)
        for (index, row), (prediction, why, remark) in zip(members, found, strict=True):
            reason[index], note[index] = why, remark
            if prediction is not None:
                for name, value in zip(ADDED, _with_intervals(prediction, fitted, row), strict=True):
                    predicted[name][index] = value
        done += len(members)
        if progress is not None:
            progress(done, len(table))
    return table.assign(**predicted, note=note, reason=reason)


def _configuration(
    configuration: Configuration, rows: list[ServingRow], fitted: Fitted, sigma: float, cache: Path | None
) -> list[Found]:
    """Predictions of all rows of one configuration; equal rows are simulated once."""
    kept = Kept(cache, configuration, fitted, sigma)
    if (found := kept.all_of(rows)) is not None:
        return found
    stack = stack_of(configuration.software)
    constants = fitted.stacks[stack]
    try:
        server = build_server(configuration, sigma)
    except (MoesimError, ValueError) as error:
        return [(None, str(error), "")] * len(rows)
    remark = _remark(configuration, server)
    results: dict[str, Found] = {}
    for row in rows:
        key = row_key(row)
        if key not in results:
            results[key] = _predict(row, server, constants, remark)
    kept.add(results)
    return [results[row_key(row)] for row in rows]


def _predict(row: ServingRow, server: Server, constants: Constants, remark: str) -> Found:
    try:
        prediction = predict_row(row, server, constants)
    except MoesimError as error:
        return None, str(error), remark
    if math.isnan(prediction.ttft_s):
        return None, "no request fits the server's KV cache or token budget", remark
    if prediction.rejected:
        remark = "; ".join(filter(None, (remark, f"{prediction.rejected} requests too long for the server")))
    return prediction, "", remark


def _remark(configuration: Configuration, server: Server) -> str:
    words = []
    machine = server.deployment.machine
    if machine.origin != "measured":
        words.append(f"kernels: {machine.origin}")
    if not any(name in configuration.software.lower() for name in ("vllm", "sglang", "trt", "tensorrt")):
        words.append(f"stack {configuration.software!r} unknown: vLLM's rules")
    return "; ".join(words)


def _with_intervals(prediction: Prediction, fitted: Fitted, row: ServingRow) -> tuple[float, ...]:
    """In the order of `ADDED`, with the effects and intervals of a known group."""
    c = row.configuration
    group = (stack_of(c.software), c.model, c.hardware, c.precision)
    load = features(row.concurrency, row.input_len, row.output_len, c.gpus)
    of_ttft, of_tpot = fitted.effects.factors(*group, row.image, load)
    ttft, tpot = prediction.ttft_s * of_ttft, prediction.tpot_s * of_tpot
    low_high = (fitted.ttft_interval, fitted.tpot_interval)
    if fitted.effects.knows(*group, row.image):
        low_high = (fitted.known_ttft_interval, fitted.known_tpot_interval)
    (ttft_low, ttft_high), (tpot_low, tpot_high) = low_high
    return ttft, tpot, ttft * ttft_low, ttft * ttft_high, tpot * tpot_low, tpot * tpot_high
