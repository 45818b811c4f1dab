"""Servers of a candidate on a bench: what users get of them at a load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from moesim.model.architecture import MoEModel
from moesim.routing.trace import RouterTrace
from moesim.serving.fleet import Fleet
from moesim.serving.requests import FINISHED, Requests, open_loop
from moesim.serving.simulate import Run, simulate
from moesim.spec.assembly.drawing import geometry_of
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import Document
from moesim.spec.serving.assembly import ServingAssembly, serving_assembly
from moesim.spec.serving.constants import Fitted, load_fitted
from moesim.spec.step.routing import routing_of
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.candidates import Candidate, Layout, precision_of, slots_per_rank
from moesim.study.serving_load.serve import build_fleet, on_line, transfer_line

_TOKENS = 8192  # of a synthetic trace
_WINDOWS = 4  # of the routing: a plan looks at hundreds of servers
_IDLE = 24  # requests served one after another, to see what an empty server gives


@dataclass(frozen=True, slots=True)
class Look:
    """What users get. ttft_s, tpot_s: at the plan's percentile (inf where requests do not end). users: mean of 1/TPOT.
    kv_share: of the fullest cache at its peak. waiting: mean requests in queues. batch: most sequences on
    one rank; typical: mean over time of those on the busiest rank."""

    ttft_s: float
    tpot_s: float
    tokens_per_s_per_user: float
    kv_share: float
    waiting: float
    batch: int
    typical: int


def scenario_data(plan: Plan, model: MoEModel, layout: Layout, max_sequences: int = 0) -> dict[str, object]:
    """The serving scenario of one server of a layout, as a user would write it. max_sequences: 0 for the preset's."""
    space = plan.search[layout.space]
    options = space.options.model_dump(exclude_none=True)
    degrees = ("attention_dp", "tp", "ep", "expert_tp")
    return {
        "model": plan.model,
        "cluster": {"hardware": layout.hardware, "devices": layout.devices} | ({"options": options} if options else {}),
        "parallelism": {name: getattr(layout, name) for name in degrees if getattr(layout, name) > 1},
        "precision": precision_of(plan, layout).model_dump(exclude_none=True),
        "routing": plan.routing.model_dump(mode="json", exclude_none=True),
        "placement": {"kind": "replicate_hot", "slots_per_rank": slots_per_rank(layout, model)},
        "overlap": {"kind": "none"},
        "network": {"all_to_all": space.all_to_all},
        "load": {
            "requests": plan.load.requests,
            "arrivals": {"kind": "poisson", "rate": plan.load.rate},
            "input": plan.load.input.model_dump(exclude_none=True),
            "output": plan.load.output.model_dump(exclude_none=True),
        },
        "steps": {"kind": "stack", "windows": _WINDOWS},
        "server": {"preset": space.software} | ({"max_sequences": max_sequences} if max_sequences else {}),
        "seed": plan.seed,
    }


@lru_cache(maxsize=256)
def _served(text: str, file: str) -> tuple[ServingAssembly, Fleet]:
    """One server of a scenario, given as JSON: assembled and priced once in a process."""
    served = _assembled(json.loads(text), file)
    return served, build_fleet(served, load_fitted())


def _assembled(data: dict[str, object], file: str) -> ServingAssembly:
    trace = _trace(json.dumps(data["routing"]), data["model"], data["seed"], file)
    return serving_assembly(Document(file, data, {}, {}), trace=trace)


@lru_cache(maxsize=4)
def _trace(routing: str, name: str, seed: int, file: str) -> RouterTrace | None:
    """The plan's trace, read or drawn once in a process; None for a dense model."""
    model = load_model(name, beside=file)
    if not model.moe_layers:
        return None
    return routing_of(json.loads(routing), file).build(
        geometry_of(model), _TOKENS, np.random.default_rng((seed, 1)), file
    )


@lru_cache(maxsize=256)
def _transfer(prefill: str, decode: str, file: str) -> tuple[float, float]:
    return transfer_line(_served(prefill, file)[0].decode, _served(decode, file)[0].decode)


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """A fleet of one server to serve loads with. gaps: [request] unit times between arrivals, scaled by the rate, so
    that all looks meet the same requests."""

    fleet: Fleet
    requests: Requests
    gaps: np.ndarray
    plan: Plan

    def look(self, rate: float, servers: int = 1, prefill_servers: int = 0) -> Look:
        """Serve the load at a rate (requests/s) on so many servers."""
        fleet = replace(self.fleet, pool=replace(self.fleet.pool, servers=servers))
        if fleet.prefill is not None:
            fleet = replace(fleet, prefill=replace(fleet.prefill, servers=prefill_servers))
        requests = replace(self.requests, arrival_s=np.cumsum(self.gaps) / rate)
        rng = np.random.default_rng((self.plan.seed, 4))
        return self._judge(requests, simulate(requests, fleet, rng=rng, queue_limit=len(requests) // 4))

    def idle(self) -> Look:
        """Requests one after another on empty servers."""
        few = slice(0, _IDLE)
        requests = open_loop(np.arange(_IDLE) * 1e4, self.requests.input_len[few], self.requests.output_len[few])
        return self._judge(requests, simulate(requests, self.fleet, rng=np.random.default_rng((self.plan.seed, 4))))

    def meets(self, look: Look) -> bool:
        """Whether users get what they must."""
        return look.ttft_s <= self.plan.slo.ttft and look.tpot_s <= self.plan.slo.tpot

    def misses(self, look: Look) -> str:
        """What of it they do not get, in words; "" when nothing."""
        slo = self.plan.slo
        if not math.isfinite(look.ttft_s):
            return "overload"
        over = [("TTFT", look.ttft_s / slo.ttft), ("TPOT", look.tpot_s / slo.tpot)]
        told = [
            f"{name} {factor:.2f} ×" if math.isfinite(factor) else f"{name} (overload)"
            for name, factor in over
            if factor > 1
        ]
        if told and look.kv_share > 0.95:
            told.append("KV cache full")
        return ", ".join(told)

    def miss(self, look: Look) -> float:
        """The larger of TTFT and TPOT over what is allowed."""
        return max(look.ttft_s / self.plan.slo.ttft, look.tpot_s / self.plan.slo.tpot)

    def _judge(self, requests: Requests, run: Run) -> Look:
        outcome = run.outcome
        percentile = self.plan.slo.percentile
        ended = outcome.status == FINISHED
        if run.stopped or not ended.all():
            return Look(math.inf, math.inf, 0.0, 1.0, math.inf, 0, 0)
        tpot = outcome.tpot_s(requests.output_len)
        tpot = tpot[~np.isnan(tpot)]
        rows = [journal.table() for journal in run.journals]
        weight = sum(float(row["seconds"].sum()) for row in rows)
        busy, held = (sum(float((row[c] * row["seconds"]).sum()) for row in rows) for c in ("waiting", "sequences"))
        return Look(
            float(np.percentile(outcome.ttft_s(), percentile)),
            float(np.percentile(tpot, percentile)) if tpot.size else 0.0,
            float((1 / tpot).mean()) if tpot.size else math.inf,
            max((float(row["kv_share"].max(initial=0.0)) for row in rows), default=0.0),
            busy / run.seconds,
            int(max((row["sequences"].max(initial=0) for row in rows), default=0)),
            round(held / weight) if weight else 0,
        )


def bench_for(plan: Plan, model: MoEModel, candidate: Candidate, file: str) -> Bench:
    """One server of a candidate, and one of its prefill pool. Raises InvalidInput and Infeasible as a scenario does."""
    text = json.dumps(scenario_data(plan, model, candidate.layout))
    served, fleet = _served(text, file)
    policy = replace(fleet.pool.policy, max_sequences=candidate.max_sequences)
    fleet = replace(fleet, pool=replace(fleet.pool, policy=policy))
    if candidate.prefill is not None:
        before = json.dumps(scenario_data(plan, model, candidate.prefill))
        line = partial(on_line, *_transfer(before, text, file))
        fleet = replace(fleet, prefill=_served(before, file)[1].pool, transfer_s=line)
    gaps = np.random.default_rng((plan.seed, 5)).exponential(size=len(served.requests))
    return Bench(fleet, served.requests, gaps, plan)


def bench_with(
    plan: Plan,
    model: MoEModel,
    candidate: Candidate,
    file: str,
    fitted: Fitted,
    change: Callable[[ServingAssembly], ServingAssembly],
    *,
    balanced: bool = False,
) -> Bench:
    """`bench_for` with other constants, servers changed by a function, and even routing if asked for."""

    def build(layout: Layout, limit: int) -> tuple[ServingAssembly, Fleet]:
        data = scenario_data(plan, model, layout, limit)
        data |= {"routing": {"kind": "balanced"}} if balanced else {}
        served = change(_assembled(data, file))
        return served, build_fleet(served, fitted)

    served, fleet = build(candidate.layout, candidate.max_sequences)
    if candidate.prefill is not None:
        before, prefill = build(candidate.prefill, 0)
        line = partial(on_line, *transfer_line(before.decode, served.decode))
        fleet = replace(fleet, prefill=prefill.pool, transfer_s=line)
    gaps = np.random.default_rng((plan.seed, 5)).exponential(size=len(served.requests))
    return Bench(fleet, served.requests, gaps, plan)
