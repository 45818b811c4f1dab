"""The load of a published inference figure: requests in a closed loop on one server, for `moesim serve`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from moesim.errors import MoesimError
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS, Policy
from moesim.spec.assembly.step import assemble
from moesim.study.entries.deployment.server import Server
from moesim.study.entries.inference import apart, bench
from moesim.study.entries.inference.lengths import Lengths
from moesim.study.entries.inference.traffic import Traffic
from moesim.study.entries.reading.case import Assumptions, NotStated
from moesim.study.entries.runs.documents import document_of
from moesim.study.entries.runs.runner import Runner
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import footprint, kv_bytes

PRESET = {"sglang": "sglang", "trtllm": "trtllm", "vllm": "vllm"}
ROUNDS = 3  # requests a slot of a load that keeps its server full
STEADY = 6  # of one at a stated speed, of which the first and the last round are a small part


def load(server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """A closed loop on one server: the file of `moesim serve`."""
    preset = str(assume.take(PRESET.get(server.stack), "vllm", "serving rules of"))
    if preset == "trtllm" and traffic.offline and lengths.output:
        return benchmark(server, lengths, assume)
    rank = traffic.sequences or min(capacity(server, PRESETS[preset], lengths), traffic.most or math.inf)
    if traffic.sequences is None and traffic.most is None:
        assume.note(f"{rank * server.attention_dp} requests in flight, as many as the KV cache holds")
    in_flight = rank * server.attention_dp
    rules: dict[str, object] = {"preset": preset, "prefix_caching": False}
    if preset == "trtllm":
        rules["token_budget"] = max(PRESETS["trtllm"].token_budget, -(-(rank + lengths.input + 64) // 64) * 64)
    if traffic.drafts:
        rules |= {"draft_tokens": traffic.drafts, "acceptance": traffic.acceptance}
    document = _closed_loop(server, lengths, in_flight, max(8, ROUNDS * in_flight), rules)
    return document if traffic.speed is None else slowed(document, traffic, assume, runner)


def benchmark(server: Server, lengths: Lengths, assume: Assumptions) -> dict[str, object]:
    """All requests of a run of `trtllm-bench throughput` at once (`moesim.study.entries.inference.bench`)."""
    policy = replace(PRESETS["trtllm"], free_share=bench.MEMORY)
    rules = {"preset": "trtllm", "prefix_caching": False} | bench.rules(server, lengths)
    most = capacity(server, replace(policy, max_sequences=rules.get("max_sequences", policy.max_sequences)), lengths)
    rules["max_sequences"] = most
    rules.setdefault("token_budget", max(policy.token_budget, -(-(most + lengths.input + 64) // 64) * 64))
    rules["memory_share"] = _share_of_memory(server, policy)
    requests = bench.requests(lengths)
    assume.note(f"{requests} requests queued at once, {most * server.attention_dp} run at a time (trtllm-bench)")
    return _closed_loop(server, lengths, requests, requests, rules)


def _closed_loop(server: Server, lengths: Lengths, in_flight: int, requests: int, rules: dict) -> dict[str, object]:
    document = server.document() | {
        "network": {"fidelity": "bound"},
        "load": {
            "requests": requests,
            "arrivals": {"kind": "closed_loop", "in_flight": in_flight},
            "input": {"kind": "fixed", "tokens": lengths.input},
            "output": {"kind": "fixed", "tokens": lengths.output or 1},
        },
        "server": rules,
    }
    return document | {"placement": _even_slots(server, document["placement"])}


def _even_slots(server: Server, placement: dict) -> dict:
    """Loads are priced without replicas: every rank has equally many experts."""
    if not server.model.moe_layers:
        return placement
    routed = server.model.layers[server.model.moe_layers[0]].experts.routed
    if routed % server.ep:
        raise NotStated(f"a load on {server.ep} ranks that do not divide {routed} experts is not simulated")
    return {"kind": "contiguous", "slots_per_rank": routed // server.ep}


def capacity(server: Server, policy: Policy, lengths: Lengths) -> int:
    """Sequences of full length that one rank's KV cache holds, at most the policy's limit. Raises NotStated."""
    whole = lengths.input + (lengths.output or 1)
    try:
        deployment = _deployment(server)
        cached = kv_capacity(deployment, policy, whole) * kv_bytes(deployment, whole) / whole
    except MoesimError as error:
        raise NotStated(f"no such server: {error}") from None
    layers = tuple(
        replace(layer, attention=replace(layer.attention, window=0)) if layer.attention else layer
        for layer in deployment.model.layers
    )
    unwindowed = replace(deployment, model=replace(deployment.model, layers=layers))
    return max(1, min(policy.max_sequences, int(cached / kv_bytes(unwindowed, whole))))


def _deployment(server: Server) -> Deployment:
    step = server.document() | {"workload": {"kind": "decode", "sequences_per_rank": 1, "context": 1}}
    return assemble(document_of(step | {"routing": {"kind": "balanced"}})).deployment


def _share_of_memory(server: Server, policy: Policy) -> float:
    """The share of HBM for weights, buffers and cache that leaves the cache `policy.free_share` of the rest."""
    hbm = server.hardware.device.hbm_bytes
    empty = Batch("decode", np.zeros(server.attention_dp, dtype=int), 1, 0)
    needs = footprint(_deployment(server), empty, 0, reserve=0.0)
    others = needs.experts + needs.dense_weights + policy.other_bytes
    return round((others + policy.free_share * (hbm - others)) / hbm, 6)


def slowed(document: dict[str, object], traffic: Traffic, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """The load with the most requests in flight that still give users the traffic's speed: on average, or all but the
    slowest hundredth."""

    def with_flight(flight: int) -> dict[str, object]:
        load = {**document["load"], "requests": max(8, STEADY * flight)}
        whole = {**document, "load": load | {"arrivals": {"kind": "closed_loop", "in_flight": flight}}}
        if traffic.prompts is None:
            return whole
        return whole | {"prefill": apart.enough(traffic.prompts, whole, traffic.speed)}

    def fast(flight: int) -> bool:
        outcome = runner.run(with_flight(flight))
        return outcome.tpot.get(traffic.statistic, outcome.total_s) <= 1 / traffic.speed

    step = document["parallelism"]["attention_dp"]
    low, high = 1, max(1, document["load"]["arrivals"]["in_flight"] // step)
    if fast(high * step):
        low = high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fast(middle * step) else (low, middle)
    who = "every user" if traffic.statistic == "mean" else f"users at {traffic.statistic}"
    assume.note(f"{low * step} requests in flight, the most that leave {who} {traffic.speed:g} tokens/s")
    return with_flight(low * step)
