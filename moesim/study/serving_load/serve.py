"""Serve the requests of a scenario: from a file to latency percentiles, goodput and a table of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from moesim.cost.communication import message
from moesim.errors import InvalidInput
from moesim.hardware.fabrics.build import build_cluster
from moesim.network.fidelity import FIDELITIES
from moesim.network.routes import build_network
from moesim.serving.expert_tables import ExpertLoads
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.kernels import kernel_tables
from moesim.serving.loads import DrawnLoads
from moesim.serving.memory import kv_capacity
from moesim.serving.replayed import ReplayedLoads
from moesim.serving.requests import STATUSES
from moesim.serving.simulate import Run, simulate
from moesim.serving.simulated import Factors, SimulatedSteps
from moesim.serving.stack import Constants, StackSteps, kernel_counts
from moesim.serving.steps import StepCost
from moesim.spec.assembly.parts import overlap_of
from moesim.spec.assembly.step import Assembly
from moesim.spec.serving.assembly import ServingAssembly, assemble_serving
from moesim.spec.serving.constants import Fitted, load_fitted
from moesim.spec.serving.scenario import Server
from moesim.study.results.notebook import serving_html
from moesim.study.results.record import rounded
from moesim.study.serving_load.metrics import serving_metrics
from moesim.study.serving_load.scaling import elastic_rule
from moesim.workload.deployment import Batch
from moesim.workload.footprint import kv_bytes

# Tokens of routing that windows are taken from. Those of a trace cost little; those of a synthetic popularity are drawn
# one by one, and one window is like another.
_POOL_TOKENS, _SYNTHETIC_TOKENS = 16_384, 4_096
_PROMPT = 256  # tokens of prompts that lie together on a rank, as long as the sequences of the shipped captures


@dataclass(frozen=True, slots=True, eq=False)
class ServeResult:
    """A served scenario. metrics: what ``--json`` prints. table: one row a request. journals: one a server."""

    assembly: ServingAssembly
    metrics: dict[str, object]
    table: pd.DataFrame
    run: Run
    costs: tuple[StepCost, ...]

    def __repr__(self) -> str:
        return f"<ServeResult of {self.metrics['scenario']}>"

    def _repr_html_(self) -> str:
        return serving_html(self.metrics)


def serve_scenario(
    name_or_path: str,
    changes: Iterable[str] = (),
    *,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ServeResult:
    """Serve all requests of a scenario. changes: ``field=value`` texts that replace fields of the file.

    exact: simulate every step instead of runs of equal steps. Raises InvalidInput with every problem of the file, or
    Infeasible when the weights leave no room for a cache.
    """
    return serve(assemble_serving(name_or_path, changes), exact=exact, progress=progress)


def serve(
    assembly: ServingAssembly, *, exact: bool = False, progress: Callable[[int, int], None] | None = None
) -> ServeResult:
    """Serve an assembled scenario."""
    fitted, scenario = load_fitted(), assembly.scenario
    fleet = build_fleet(assembly, fitted)
    run = simulate(
        assembly.requests,
        fleet,
        rng=np.random.default_rng((scenario.seed, 4)),
        exact=exact,
        queue_limit=scenario.queue_limit,
        progress=progress,
    )
    table = request_table(assembly, run)
    costs = tuple(pool.cost for pool in (fleet.prefill, fleet.pool) if pool is not None)
    return ServeResult(assembly, rounded(serving_metrics(assembly, run, table, fleet, fitted)), table, run, costs)


def build_fleet(assembly: ServingAssembly, fitted: Fitted) -> Fleet:
    """Servers, balancer and front end of a scenario."""
    scenario = assembly.scenario
    stack = fitted.stacks[scenario.server.preset]
    pool = _pool(assembly, assembly.decode, scenario.server, scenario.servers, fitted)
    frontend = Frontend(stack.frontend_fixed, stack.frontend_request)
    elastic = elastic_rule(scenario, assembly.decode)
    if assembly.prefill is None:
        return Fleet(pool, balancer=scenario.balancer, frontend=frontend, elastic=elastic)
    own = scenario.prefill
    prefill = _pool(assembly, assembly.prefill, own.server, own.servers, fitted)
    transfer = transfer_line(assembly.prefill, assembly.decode)
    line = partial(on_line, *transfer)
    return Fleet(pool, prefill, line, scenario.balancer, frontend, elastic=elastic)


def on_line(fixed_s: float, token_s: float, tokens: int) -> float:
    """Seconds to hand over the cache of so many tokens, from what `transfer_line` says."""
    return fixed_s + token_s * tokens


def _pool(assembly: ServingAssembly, placed: Assembly, server: Server, servers: int, fitted: Fitted) -> Pool:
    deployment, requests, preset = placed.deployment, assembly.requests, server.preset
    policy = server.policy()
    typical = int(np.mean(requests.input_len + requests.output_len / 2))
    capacity = kv_capacity(deployment, policy, typical)
    host = deployment.cluster.hardware.host.link_bytes_per_s
    per_token = kv_bytes(deployment, typical) / typical
    return Pool(
        policy,
        _step_cost(assembly, placed, fitted.stacks[preset], fitted.simulated.factors[preset]),
        capacity,
        deployment.parallelism.attention_dp,
        servers,
        deployment.model.context or float("inf"),
        per_token / host if host else 0.0,
    )


def _step_cost(assembly: ServingAssembly, placed: Assembly, constants: Constants, factors: Factors) -> StepCost:
    deployment, steps = placed.deployment, assembly.scenario.steps
    counts = kernel_counts(deployment)
    if steps.kind == "stack":
        return StackSteps(kernel_tables(deployment, expert_loads(placed, steps.windows)), counts, constants)
    return SimulatedSteps(
        deployment,
        placed.routes,
        overlap=overlap_of(placed.scenario),
        rates=FIDELITIES[deployment.fidelity].rates,
        counts=counts,
        constants=constants,
        factors=factors,
        windows=steps.windows,
    )


def expert_loads(placed: Assembly, windows: int) -> ExpertLoads:
    """Windows of the scenario's routing, of the next tokens of many sequences and of prompts."""
    if placed.routes is None:
        return DrawnLoads()  # of a dense model: nobody asks
    whole = _POOL_TOKENS if placed.scenario.routing.kind in ("trace", "fitted") else _SYNTHETIC_TOKENS
    ranks = placed.deployment.parallelism.attention_dp
    each = -(-whole // ranks)
    decode = placed.draw(Batch("decode", np.full(ranks, each), 1, 1))
    try:
        prompts = placed.draw(Batch("prefill", np.full(ranks, -(-each // _PROMPT)), _PROMPT, 0))
    except InvalidInput:  # a trace of decoded tokens alone: they stand for those of prompts
        prompts = decode
    return ReplayedLoads(decode, prompts, windows)


def transfer_line(source: Assembly, target: Assembly) -> tuple[float, float]:
    """(seconds, seconds a token) to hand a request's KV cache from one pool's server to the other's over the topology.

    Every rank of the sender sends its part to a rank of the receiver; between different products the slower fabric
    counts.
    """
    sender, receiver = source.deployment, target.deployment
    worst = (0.0, 0.0)
    for deployment in (sender, receiver):
        hardware = deployment.cluster.hardware
        domain = int(np.bincount(deployment.cluster.domain).max())
        # The servers stand in different scale-up domains where those are full, as separate pools do.
        devices = 2 * max(sender.parallelism.devices, domain)
        cluster = build_cluster(hardware, devices)
        network = build_network(cluster)
        ranks = np.arange(sender.parallelism.tp)
        found = []
        for tokens in (1, 32_768):
            size = np.full(ranks.size, kv_bytes(sender, tokens))
            moved = message(deployment.machine, network, ranks, devices // 2 + ranks, size, fidelity="bound")
            found.append(float((moved.arrived * moved.wire_s + moved.latency_s).max()))
        slope = max(found[1] - found[0], 0.0) / 32_767
        worst = max(worst, (found[0], slope), key=lambda line: line[0] + 4096 * line[1])
    return worst


def request_table(assembly: ServingAssembly, run: Run) -> pd.DataFrame:
    """One row a request: what it asked for, what became of it and when, in seconds of the client's clock."""
    requests, outcome = assembly.requests, run.outcome
    return pd.DataFrame(
        {
            "submitted_s": outcome.submitted_s,
            "input_len": requests.input_len,
            "output_len": requests.output_len,
            "status": np.array(STATUSES, dtype=object)[outcome.status],
            "ttft_s": outcome.ttft_s(),
            "tpot_s": outcome.tpot_s(requests.output_len),
            "latency_s": outcome.finished_s - outcome.submitted_s,
            "cached_tokens": outcome.cached_tokens,
            "preemptions": outcome.preemptions,
            "replica": outcome.replica,
            "warmup": np.arange(len(requests)) < requests.warmup,
        }
    )
