"""What one would gain from a little more of something: each figure of the best plan's servers changed by a tenth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from moesim.model.architecture import MoEModel
from moesim.network.routes import build_network
from moesim.serving.stack import Constants
from moesim.spec.serving.assembly import ServingAssembly
from moesim.spec.serving.constants import load_fitted
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.bench import Bench, bench_with
from moesim.study.planning.candidates import Candidate
from moesim.workload.deployment import Deployment

_TENTH = 1.1
_HALVINGS = 9  # of the logarithm of the rate between what is met and what is not: within 1 %


@dataclass(frozen=True, slots=True)
class Knob:
    """One change. deployment, constants: what it makes of the server's. balanced: even routing."""

    name: str
    deployment: Callable[[Deployment], Deployment] = lambda deployment: deployment
    constants: Callable[[Constants], Constants] = lambda constants: constants
    balanced: bool = False


def _device(**factors: float) -> Callable[[Deployment], Deployment]:
    def change(deployment: Deployment) -> Deployment:
        device = deployment.machine.device
        changed = replace(device, **{name: getattr(device, name) * factor for name, factor in factors.items()})
        return replace(deployment, machine=replace(deployment.machine, device=changed))

    return change


def _arithmetic(deployment: Deployment) -> Deployment:
    device = deployment.machine.device
    peak = {name: rate * _TENTH for name, rate in device.peak.items()}
    return replace(deployment, machine=replace(deployment.machine, device=replace(device, peak=peak)))


def _links(deployment: Deployment) -> Deployment:
    graph = deployment.cluster.graph.copy()
    for _, _, link in graph.edges(data=True):
        link["capacity"] *= _TENTH
    cluster = replace(deployment.cluster, graph=graph)
    deployment = replace(deployment, cluster=cluster, network=build_network(cluster))
    if deployment.machine.device.scale_up_bytes_per_s:
        deployment = _device(scale_up_bytes_per_s=_TENTH)(deployment)
    return deployment


def _launches(constants: Constants) -> Constants:
    names = ("kernel", "eager", "prompt", "fixed", "sequence")
    return replace(constants, **{name: getattr(constants, name) / _TENTH for name in names})


KNOBS = (
    Knob("HBM bandwidth + 10 %", _device(hbm_bytes_per_s=_TENTH)),
    Knob("HBM capacity + 10 %", _device(hbm_bytes=_TENTH)),
    Knob("FLOP/s + 10 %", _arithmetic),
    Knob("link bandwidth + 10 %", _links),
    Knob("launch and host overhead / 1.1", constants=_launches),
    Knob("balanced experts", balanced=True),
)


def sensitivity(plan: Plan, model: MoEModel, candidate: Candidate, pools: tuple[int, int], file: str) -> pd.DataFrame:
    """Columns knob, requests_per_s (most that the servers carry within the objectives), gain (over the unchanged).

    pools: servers, and prefill servers.
    """
    fitted = load_fitted()
    base = _most(bench_with(plan, model, candidate, file, fitted, lambda served: served), pools)
    rows = [{"knob": "as planned", "requests_per_s": base, "gain": 0.0}]
    for knob in KNOBS:
        if knob.balanced and not model.moe_layers:
            continue
        stacks = {name: knob.constants(constants) for name, constants in fitted.stacks.items()}
        changed = replace(fitted, stacks=stacks)
        rate = _most(bench_with(plan, model, candidate, file, changed, _apply(knob), balanced=knob.balanced), pools)
        rows.append({"knob": knob.name, "requests_per_s": rate, "gain": rate / base - 1 if base else 0.0})
    return pd.DataFrame(rows)


def _apply(knob: Knob) -> Callable[[ServingAssembly], ServingAssembly]:
    def change(served: ServingAssembly) -> ServingAssembly:
        decode = replace(served.decode, deployment=knob.deployment(served.decode.deployment))
        return replace(served, decode=decode)

    return change


def _most(bench: Bench, pools: tuple[int, int]) -> float:
    """Largest rate (requests/s) at which so many servers meet the objectives; 0 where none is met."""
    servers, prefill = pools
    share = (1, prefill) if not prefill else pools  # alike servers without pools carry the load in equal parts
    scale = servers if not prefill else 1

    def meets(rate: float) -> bool:
        return bench.meets(bench.look(rate / scale, *share))

    low = high = bench.plan.load.rate
    while not meets(low):
        low, high = low / 2, low
        if low < bench.plan.load.rate / 64:
            return 0.0
    while low == high or meets(high):
        low, high = high, high * 1.5
        if high > bench.plan.load.rate * 64:
            return low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low
