"""What requests meet of a service's failures: in every state that lasts, and through one failure.

States last long against a queue's memory, so each is served by itself. What happens when a state changes is served
request by request: one failure in the middle of the load, with what was under way moving to the other servers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.resilience.process import DOWN
from moesim.resilience.service_run import ServiceLog
from moesim.serving.fleet import Fleet
from moesim.serving.roster import Outage
from moesim.serving.simulate import simulate
from moesim.spec.serving.assembly import ServingAssembly
from moesim.spec.studies.resilience_scenario import ServiceRun
from moesim.study.serving_load.serve import request_table

_SERVED_STATES = 6  # of the most frequent ones; the rest together is reported as not served
_FAILURE_AT = 1 / 3  # of the time over which requests arrive


def serve_states(
    served: ServingAssembly,
    fleet: Fleet,
    logs: list[ServiceLog],
    slowdown: float,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """The service in each of its most frequent states: share of time, and what requests meet there."""
    share: dict[tuple[int, int], float] = {}
    for log in logs:
        for state, part in log.share.items():
            share[state] = share.get(state, 0.0) + part / len(logs)
    frequent = sorted(share, key=lambda state: -share[state])[:_SERVED_STATES]
    rows = []
    for number, (up, slowed) in enumerate(frequent):
        if progress is not None:
            progress(number, len(frequent))
        row = {"up": up, "slowed": slowed, "share": share[up, slowed]}
        if up:
            pool = replace(fleet.pool, servers=up)
            slow = tuple(Outage(server, 0.0, np.inf, slowdown) for server in range(slowed) if slowdown > 1)
            row |= _latencies(served, _serve(served, replace(fleet, pool=pool, outages=slow)))
        else:
            row |= {"good_share": 0.0, "requests": 0, "stopped": ""}
        rows.append(row)
    if progress is not None:
        progress(len(frequent), len(frequent))
    return pd.DataFrame(rows)


def _serve(served: ServingAssembly, fleet: Fleet):
    scenario = served.scenario
    rng = np.random.default_rng((scenario.seed, 4))
    return simulate(served.requests, fleet, rng=rng, queue_limit=scenario.queue_limit)


def _latencies(served: ServingAssembly, run) -> dict[str, object]:
    table = request_table(served, run)
    judged = table[(table["status"] == "finished") & ~table["warmup"]]
    return latencies(judged, served) | {"stopped": run.stopped}


def latencies(judged: pd.DataFrame, served: ServingAssembly) -> dict[str, float]:
    """Percentiles of TTFT and TPOT, and the share of requests that meet the scenario's SLO (all, without one)."""
    found = {}
    for column in ("ttft_s", "tpot_s"):
        values = judged[column].dropna()
        for percentile in (50, 99):
            found[f"{column[:-2]}_p{percentile}_s"] = (
                float(np.percentile(values, percentile)) if len(values) else np.nan
            )
    slo = served.scenario.slo
    good = np.ones(len(judged), dtype=bool)
    if slo is not None:
        good = (judged["ttft_s"] <= slo.ttft) & ~(judged["tpot_s"] > slo.tpot)
    return found | {"good_share": float(np.mean(good)) if len(judged) else 0.0, "requests": len(judged)}


def one_failure(
    scenario: ServiceRun, served: ServingAssembly, logs: list[ServiceLog], slowdown: float
) -> tuple[Outage, ...]:
    """The first server fails once, for as long as servers usually are down (median).

    Then it is slowed, where the policy goes on without the rank, for as long as that usually lasts.
    """
    arrivals = served.requests.arrival_s
    start = float(arrivals[0] + (arrivals[-1] - arrivals[0]) * _FAILURE_AT)
    down = _usual_stretch(logs, DOWN)
    if down is None:  # nothing failed while it was watched: what one failure takes at least
        down = scenario.failures.detection + (scenario.recovery.regroup or scenario.recovery.restart)
    outages = [Outage(0, start, start + down)]
    if slowdown > 1:
        lasts = _usual_stretch(logs, ("slowed",)) or 0.0
        outages.append(Outage(0, start + down, start + down + lasts, slowdown))
    return tuple(outages)


def _usual_stretch(logs: list[ServiceLog], states: tuple[str, ...]) -> float | None:
    """Median seconds of an unbroken stay in some states, over all servers and seeds; None if there was none."""
    stays: list[float] = []
    for log in (server for service in logs for server in service.servers):
        inside = False
        for (at, state), (until, _) in zip(log.history, [*log.history[1:], (log.wall_s, "")], strict=True):
            if state in states and inside:
                stays[-1] += until - at
            elif state in states:
                stays.append(until - at)
            inside = state in states
    return float(np.median(stays)) if stays else None


def served_through(served: ServingAssembly, fleet: Fleet, outages: tuple[Outage, ...]) -> tuple[pd.DataFrame, int]:
    """(requests with the part of the run that they fall into, requests that left the failed server)."""
    run = _serve(served, replace(fleet, outages=outages))
    table = request_table(served, run)
    begin, end = outages[0].at_s, outages[0].until_s
    done = table["submitted_s"] + table["latency_s"]
    part = np.where(done < begin, "before", np.where(table["submitted_s"] < end, "during", "after"))
    return table.assign(part=part), run.moved
