"""Judge serving predictions by measured closed-loop runs: predict TTFT and TPOT of every row of a table.

Predictions come from the columns that describe a run (`moesim.study.validation.serving.rows`); measured columns may be
absent and never have an influence. Rows of one configuration share their kernel tables; finished configurations are
kept in a folder, so that an interrupted validation goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import MoesimError
from moesim.serving.effects import features
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.kernels import KernelTables, kernel_tables
from moesim.serving.loads import REALISTIC_SIGMA
from moesim.serving.memory import kv_capacity
from moesim.serving.simulate import simulate
from moesim.serving.stack import Constants, Counts, StackSteps, kernel_counts
from moesim.spec.serving_constants import Fitted, load_fitted
from moesim.study.results.code import code_hash
from moesim.study.validation.serving.rows import (
    COLUMNS,
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
    return Server(placed, kernel_tables(placed, sigma=sigma), kernel_counts(placed))


@dataclass(frozen=True, slots=True)
class Prediction:
    """Mean TTFT and TPOT over the requests of a run, and how many of them the server had to refuse."""

    ttft_s: float
    tpot_s: float
    rejected: int


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


Found = tuple[Prediction | None, str, str]  # prediction, reason where there is none, note


def _configuration(
    configuration: Configuration, rows: list[ServingRow], fitted: Fitted, sigma: float, cache: Path | None
) -> list[Found]:
    """Predictions of all rows of one configuration; equal rows are simulated once."""
    kept = _open_cache(cache, configuration, fitted, sigma)
    if kept is not None and all(_key(row) in kept for row in rows):
        return [_unpack(kept[_key(row)]) for row in rows]
    stack = stack_of(configuration.software)
    constants = fitted.stacks[stack]
    try:
        server = build_server(configuration, sigma)
    except (MoesimError, ValueError) as error:
        return [(None, str(error), "")] * len(rows)
    remark = _remark(configuration, server)
    results: dict[str, Found] = {}
    for row in rows:
        key = _key(row)
        if key not in results:
            results[key] = _predict(row, server, constants, remark)
    if cache is not None:
        _write_cache(cache, configuration, fitted, sigma, results)
    return [results[_key(row)] for row in rows]


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


def _key(row: ServingRow) -> str:
    return f"{row.input_len} {row.output_len} {row.concurrency} {row.client} {row.age:.3f}"


def _cache_file(cache: Path, configuration: Configuration, fitted: Fitted, sigma: float) -> Path:
    """One file a configuration; its name changes with everything that a prediction depends on."""
    about = (code_hash(), repr(configuration), repr(fitted.stacks), sigma, _profile_text(configuration.hardware))
    return cache / f"serving-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.json"


def _profile_text(name: str) -> str:
    from moesim.spec import library

    try:
        return library.find("hardware", name).read_text(encoding="utf-8")
    except (MoesimError, OSError):
        return ""


def _open_cache(cache: Path | None, configuration: Configuration, fitted: Fitted, sigma: float) -> dict | None:
    if cache is None:
        return None
    try:
        return json.loads(_cache_file(cache, configuration, fitted, sigma).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_cache(cache: Path, configuration: Configuration, fitted: Fitted, sigma: float, results: dict) -> None:
    path = _cache_file(cache, configuration, fitted, sigma)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _open_cache(cache, configuration, fitted, sigma) or {}
    plain = {
        key: [prediction and [prediction.ttft_s, prediction.tpot_s, prediction.rejected], why, remark]
        for key, (prediction, why, remark) in results.items()
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(known | plain), encoding="utf-8")
    os.replace(partial, path)


def _unpack(kept: list) -> Found:
    numbers, why, remark = kept
    return (Prediction(*numbers) if numbers else None), why, remark


def scored(table: pd.DataFrame) -> np.ndarray:
    """[rows] whether TTFT is scored: not where SGLang had not been warmed up (cold servers stall for a minute)."""
    cold = table["warmed_up"].eq(False) if "warmed_up" in table else pd.Series(False, index=table.index)
    return ~(cold & table["software"].map(stack_of).eq("sglang")).to_numpy(dtype=bool)


def serving_statistics(predicted: pd.DataFrame, by: tuple[str, ...] = ("software",)) -> pd.DataFrame:
    """How good predictions are, a row a combination of ``by`` columns and one for all: MAPE, median and P90 of the
    absolute error, bias and coverage of TPOT and TTFT; fractions."""
    by = tuple(column for column in by if column in predicted)
    parts = [(dict.fromkeys(by, "all"), predicted)]
    if by:
        grouped = predicted.groupby(list(by), sort=True, dropna=False)
        parts = [(dict(zip(by, values, strict=True)), part) for values, part in grouped] + parts
    return pd.DataFrame([labels | _statistics(part) for labels, part in parts])


def _statistics(part: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {"rows": len(part), "refused": int((part["reason"] != "").sum())}
    for name, judged in (("tpot", np.ones(len(part), dtype=bool)), ("ttft", scored(part))):
        if f"{name}_s" not in part:
            continue
        measured, guess = part[f"{name}_s"], part[f"predicted_{name}_s"]
        known = part[judged & np.isfinite(measured) & np.isfinite(guess)]
        if known.empty:
            continue
        error = known[f"predicted_{name}_s"] / known[f"{name}_s"] - 1
        inside = (known[f"{name}_low_s"] <= known[f"{name}_s"]) & (known[f"{name}_s"] <= known[f"{name}_high_s"])
        found |= {
            f"{name}_mape": float(error.abs().mean()),
            f"{name}_median": float(error.abs().median()),
            f"{name}_p90": float(error.abs().quantile(0.9)),
            f"{name}_bias": float(error.median()),
            f"{name}_coverage": float(inside.mean()),
        }
    return found


def throughput_per_gpu(table: pd.DataFrame, prefix: str = "") -> pd.Series:
    """Output tokens/s/GPU of a closed loop: concurrency · out / (TTFT + (out − 1)·TPOT) / GPUs."""
    seconds = table[f"{prefix}ttft_s"] + (table["output_len"] - 1) * table[f"{prefix}tpot_s"]
    return table["concurrency"] * table["output_len"] / seconds / table["gpus"]


def chosen_by_prediction(predicted: pd.DataFrame) -> pd.DataFrame:
    """Is choosing by prediction safe? For each model, lengths and concurrency with several configurations: the measured
    throughput per GPU of the one predicted best, as a share of the best measured one."""
    known = predicted[np.isfinite(predicted["predicted_tpot_s"]) & np.isfinite(predicted["tpot_s"])].copy()
    known["measured"] = throughput_per_gpu(known)
    known["predicted"] = throughput_per_gpu(known, "predicted_")
    rows = []
    keys = ["model", "input_len", "output_len", "concurrency"]
    for values, part in known.groupby(keys):
        if len(part) < 2:
            continue
        best = part.loc[part["predicted"].idxmax()]
        share = best["measured"] / part["measured"].max()
        rows.append(dict(zip(keys, values, strict=True)) | {"configurations": len(part), "share_of_best": float(share)})
    return pd.DataFrame(rows, columns=[*keys, "configurations", "share_of_best"])


def is_serving(table: pd.DataFrame) -> bool:
    """Whether a table has the columns of serving runs."""
    return set(COLUMNS) - {"client", "attention_dp", "ep"} <= set(table.columns)
