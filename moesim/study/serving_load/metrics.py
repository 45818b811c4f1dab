"""What a served scenario amounts to, as plain data: latencies, throughput, goodput, what its servers went through."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moesim.serving.fleet import Fleet
from moesim.serving.requests import STATUSES
from moesim.serving.simulate import Run
from moesim.serving.steps import STEPS_PER_DRAW
from moesim.spec.serving.assembly import ServingAssembly
from moesim.spec.serving.constants import Fitted
from moesim.study.results.record import origin

PERCENTILES = (50, 90, 95, 99)


def serving_metrics(
    assembly: ServingAssembly, run: Run, table: pd.DataFrame, fleet: Fleet, fitted: Fitted
) -> dict[str, object]:
    """Latencies, throughput and what the servers went through, as plain data."""
    scenario = assembly.scenario
    judge = fitted.simulated if scenario.steps.kind == "simulated" else fitted
    judged = table[(table["status"] == "finished") & ~table["warmup"]]
    devices = scenario.cluster.devices * scenario.servers
    if assembly.prefill is not None:
        devices += scenario.prefill.cluster.devices * scenario.prefill.servers
    last = (judged["submitted_s"] + judged["latency_s"]).max() if len(judged) else 0.0
    seconds = float(last - judged["submitted_s"].min()) if len(judged) else 0.0
    rate = 1 / seconds if seconds > 0 else 0.0
    counts = {status: int((table["status"] == status).sum()) for status in STATUSES}
    return {
        **origin(assembly.document),
        "title": assembly.decode.title.replace(" decode on", " served on"),
        "description": scenario.description,
        "seed": scenario.seed,
        "complete": not run.stopped,
        "stopped": run.stopped or None,
        "requests": {**counts, "preempted": int((table["preemptions"] > 0).sum())},
        "ttft_s": distribution(judged["ttft_s"], judge.ttft_interval),
        "tpot_s": distribution(judged["tpot_s"], judge.tpot_interval),
        "latency_s": distribution(judged["latency_s"]),
        "requests_per_s": len(judged) * rate,
        "output_tokens_per_s": float(judged["output_len"].sum()) * rate,
        "output_tokens_per_s_per_device": float(judged["output_len"].sum()) * rate / devices,
        "tokens_per_s_per_user": float(1 / judged["tpot_s"].mean()) if len(judged) else None,
        "devices": devices,
        "elastic": _scaled(run, fleet, scenario.cluster.devices) if fleet.elastic else None,
        "cached_share": float(table["cached_tokens"].sum() / table["input_len"].sum()),
        "goodput": _goodput(scenario.slo, judged, rate),
        "servers": server_metrics(run),
        "kv_capacity_tokens": fleet.pool.capacity,
        "provenance": provenance(assembly, fitted),
    }


def provenance(assembly: ServingAssembly, fitted: Fitted) -> dict[str, str]:
    """Where step times come from: constants of the stack, and windows of the scenario's routing."""
    scenario, trace = assembly.scenario, assembly.decode.trace
    found = assembly.decode.provenance() | {"stack constants": fitted.source, "steps": scenario.steps.kind}
    if trace is not None:
        kind = "synthetic" if trace.synthetic else "captured"
        windows = f"{scenario.steps.windows} windows of a batch size, the next one every {STEPS_PER_DRAW} steps"
        found["routing"] = f"{trace.name} ({kind}): {trace.source}; {windows}"
    return found


def distribution(values: pd.Series, interval: tuple[float, float] | None = None) -> dict[str, float | None]:
    """Mean and percentiles of seconds; with an 80 % interval of the mean where factors are given."""
    values = values.dropna()
    if values.empty:
        return {}
    found = {"mean": float(values.mean())} | {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    if interval is not None:
        found |= {"mean_low": found["mean"] * interval[0], "mean_high": found["mean"] * interval[1]}
    return found


def _scaled(run: Run, fleet: Fleet, devices: int) -> dict[str, float]:
    """What scaling did: servers over time, and device-hours against all servers being up throughout."""
    begins = np.array([at for at, _ in run.servers])
    counts = np.array([count for _, count in run.servers])
    hours = float((np.diff(begins, append=run.seconds) * counts).sum()) * devices / 3600
    return {
        "start_s": fleet.elastic.start_s,
        "most_servers": int(counts.max()),
        "mean_servers": hours * 3600 / devices / run.seconds if run.seconds else 0.0,
        "changes": len(counts) - 1,
        "device_hours": hours,
    }


def _goodput(slo, judged: pd.DataFrame, rate: float) -> dict[str, float] | None:
    if slo is None:
        return None
    good = (judged["ttft_s"] <= slo.ttft) & ~(judged["tpot_s"] > slo.tpot)
    share = float(good.mean()) if len(judged) else 0.0
    return {"ttft_s": slo.ttft, "tpot_s": slo.tpot, "share": share, "requests_per_s": float(good.sum()) * rate}


def server_metrics(run: Run) -> list[dict[str, float]]:
    """Per server, weighted by time: batch, queue, peak of KV, steps, and how uneven ranks are in sequences and in the
    tokens of their experts."""
    found = []
    for journal in run.journals:
        rows = journal.table()
        busy = rows["seconds"].sum()
        if not busy:
            found.append({"steps": 0})
            continue
        share = rows["seconds"] / busy
        found.append(
            {
                "steps": int(rows["steps"].sum()),
                "busy_share": float(busy / run.seconds),
                "mean_batch": float((share * rows["total"]).sum()),
                "mean_waiting": float((share * rows["waiting"]).sum()),
                "most_waiting": float(rows["waiting"].max()),
                "peak_kv_share": float(rows["kv_share"].max()),
                "busiest_rank_over_mean": float((share * rows["uneven"]).sum()),
                "hottest_rank_over_mean": float((share * rows["hottest"]).sum()),
            }
        )
    return found
