"""A service through failures: availability and goodput over weeks, and latency before, during and after one failure.

Failures are drawn over weeks on the service's servers (`moesim.resilience.service_run`): out comes the share of time
with so many servers up. Requests are served for each of these states (`moesim.study.reliability.service_requests`), and
goodput over weeks is their mean by time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput
from moesim.resilience.failures import FailureClass
from moesim.resilience.process import Job, Operations
from moesim.resilience.recovery import Loss, Response
from moesim.resilience.service_run import NO_CHECKPOINTS, ServiceLog, run_service
from moesim.serving.roster import Outage
from moesim.spec.reading.loading import Document
from moesim.spec.serving.assembly import ServingAssembly, serving_assembly
from moesim.spec.serving.constants import load_fitted
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.resilience_scenario import ServiceRun
from moesim.study.reliability.lost_rank import measure_lost_rank
from moesim.study.reliability.over_seeds import recorded_failures, spread
from moesim.study.reliability.service_requests import latencies, one_failure, serve_states, served_through
from moesim.study.results.notebook import spread_html
from moesim.study.results.record import origin, rounded
from moesim.study.serving_load.serve import build_fleet


@dataclass(frozen=True, slots=True, eq=False)
class ServiceResult:
    """metrics: what ``--json`` prints. states: one row a state of the service. requests: of the run with one failure,
    with a column `part` (before, during, after). outages: of that run."""

    metrics: dict[str, object]
    states: pd.DataFrame
    requests: pd.DataFrame
    outages: tuple[Outage, ...]

    def _repr_html_(self) -> str:
        names = ("goodput_share", "availability", "all_up", "lost_device_hours")
        return spread_html(str(self.metrics["scenario"]), self.metrics, names) + self.states.to_html(index=False)


def simulate_service(
    name_or_path: str, changes: Iterable[str] = (), *, progress: Callable[[int, int], None] | None = None
) -> ServiceResult:
    """Simulate a service through failures. Raises InvalidInput with every problem of the file."""
    return service_of(read_scenario(name_or_path, changes), progress=progress)


def service_of(document: Document, *, progress: Callable[[int, int], None] | None = None) -> ServiceResult:
    """`simulate_service` of a document."""
    scenario = document.check(ServiceRun)
    try:
        inner = read_scenario(scenario.serving.scenario, scenario.serving.set, beside=document.file)
    except InvalidInput as error:
        raise document.locate(error, "serving.scenario") from None
    served = serving_assembly(inner)
    if served.requests.in_flight is not None:
        told = "is a closed loop, whose clients wait with a failed service; name one with arrivals"
        raise InvalidInput(document.problem("serving.scenario", told))
    measured = _without_rank(scenario, served)
    servers, job, operations = _plan(scenario, served, measured, document)
    logs = [
        run_service(servers, job, operations, np.random.default_rng((scenario.seed, number)))
        for number in range(scenario.seeds)
    ]
    fleet = build_fleet(served, load_fitted())
    states = serve_states(served, fleet, logs, measured[0], progress)
    outages = one_failure(scenario, served, logs, measured[0])
    requests, moved = served_through(served, fleet, outages)
    judged = requests[(requests["status"] == "finished") & ~requests["warmup"]]
    one = {
        "down_s": outages[0].until_s - outages[0].at_s,
        "slowed_s": sum(outage.until_s - outage.at_s for outage in outages[1:]),
        "moved": moved,
        **{part: latencies(judged[judged["part"] == part], served) for part in ("before", "during", "after")},
    }
    metrics = _metrics(document, scenario, (servers, job, logs), states, measured) | {"one_failure": one}
    return ServiceResult(rounded(metrics), states, requests, outages)


def _without_rank(scenario: ServiceRun, served: ServingAssembly) -> tuple[float, float]:
    """(slowdown, dropped share) of a decode step without one rank: stated, or from the engine."""
    if scenario.recovery.kind not in ("reroute", "drop"):
        return 1.0, 0.0
    if scenario.slowdown_without_rank is not None:
        return scenario.slowdown_without_rank, scenario.dropped_without_rank or 0.0
    lost = measure_lost_rank(served.decode, drop=scenario.recovery.kind == "drop")
    return lost.slowdown, lost.dropped


def _plan(
    scenario: ServiceRun, served: ServingAssembly, measured: tuple[float, float], document: Document
) -> tuple[int, Job, Operations]:
    """(servers, the job of one server, what fails over all of them)."""
    servers, cluster = served.scenario.servers, served.decode.deployment.cluster
    node = int(np.unique(cluster.node, return_counts=True)[1].max())
    total = servers * cluster.ranks
    classes = []
    for name, stated in scenario.failures.classes().items():
        size = {"node": node, "switch": stated.devices, "power_domain": stated.devices}.get(name, 1)
        slowdown = stated.slowdown or 0.0
        classes.append(FailureClass(name, -(-total // size), min(size, total), stated.mtbf, stated.repair, slowdown))
    try:
        recover = scenario.recovery.bind(None)
    except ValueError:
        told = "shrinks a training job by whole replicas; a service has servers: write restart, reroute or drop"
        raise InvalidInput(document.problem("recovery.kind", told)) from None
    operations = Operations(
        tuple(classes),
        NO_CHECKPOINTS,
        partial(_nothing_saved, recover),
        scenario.failures.detection,
        scenario.spares,
        measured,
    )
    if recorded_failures(scenario.failures.log, classes, document):
        raise InvalidInput(document.problem("failures.log", "is read for training runs only; leave it out"))
    return servers, Job(cluster.ranks, min(node, cluster.ranks), None, scenario.duration), operations


def _nothing_saved(recover: Callable[[Loss], Response], loss: Loss) -> Response:
    """A server has no state to go back to."""
    return replace(recover(loss), rolls_back=False)


def _metrics(
    document: Document,
    scenario: ServiceRun,
    service: tuple[int, Job, list[ServiceLog]],
    states: pd.DataFrame,
    measured: tuple[float, float],
) -> dict[str, object]:
    servers, job, logs = service
    served_share = float(states["share"].sum())
    weights = states["share"] / served_share
    lost = pd.Series([(servers - log.up) * job.devices * log.wall_s / 3600 for log in logs])
    return {
        **origin(document),
        "description": scenario.description,
        "seed": scenario.seed,
        "seeds": scenario.seeds,
        "servers": servers,
        "devices": servers * job.devices,
        "without_rank": {"slowdown": measured[0], "dropped_share": measured[1]},
        "availability": spread(pd.Series([log.availability for log in logs])),
        "all_up": spread(pd.Series([log.share.get((servers, 0), 0.0) for log in logs])),
        "goodput_share": float((weights * states["good_share"]).sum()) * served_share,
        "lost_device_hours": spread(lost),
        "failures": _failures(logs),
        "states": states.astype(object).where(states.notna(), None).to_dict("records"),
        "unserved_share": max(0.0, round(1 - served_share, 12)),
    }


def _failures(logs: list[ServiceLog]) -> dict[str, float]:
    """Mean number of failures of each class that one service met."""
    names = sorted({name for log in logs for server in log.servers for name in server.failures})
    return {name: sum(s.failures.get(name, 0) for log in logs for s in log.servers) / len(logs) for name in names}
