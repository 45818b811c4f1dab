"""The load of a published inference figure: requests in a closed loop on one server, for `moesim serve`."""

from __future__ import annotations

import math
from dataclasses import replace

from moesim.errors import MoesimError
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.spec.assembly import assemble
from moesim.study.entries.case import Assumptions, NotStated
from moesim.study.entries.deployment import Server
from moesim.study.entries.documents import document_of
from moesim.study.entries.lengths import Lengths
from moesim.study.entries.outcome import Runner
from moesim.study.entries.traffic import Traffic
from moesim.workload.footprint import kv_bytes

PRESET = {"sglang": "sglang", "trtllm": "trtllm", "vllm": "vllm"}
ROUNDS = 3  # requests a slot of a load that keeps its server full


def load(server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """A closed loop on one server: the file of `moesim serve`."""
    preset = assume.take(PRESET.get(server.stack), "vllm", "serving rules of")
    rank = traffic.sequences or min(capacity(server, str(preset), lengths), traffic.most or math.inf)
    if traffic.sequences is None and traffic.most is None:
        assume.note(f"{rank * server.attention_dp} requests in flight, as many as the KV cache holds")
    in_flight = rank * server.attention_dp
    rules: dict[str, object] = {"preset": preset, "prefix_caching": False}
    if preset == "trtllm":
        rules["token_budget"] = max(PRESETS["trtllm"].token_budget, -(-(rank + lengths.input + 64) // 64) * 64)
    if traffic.drafts:
        rules |= {"draft_tokens": traffic.drafts, "acceptance": traffic.acceptance}
    document = server.document() | {
        "network": {"fidelity": "bound"},
        "load": {
            "requests": max(8, ROUNDS * in_flight),
            "arrivals": {"kind": "closed_loop", "in_flight": in_flight},
            "input": {"kind": "fixed", "tokens": lengths.input},
            "output": {"kind": "fixed", "tokens": lengths.output or 1},
        },
        "server": rules,
    }
    document["placement"] = _even_slots(server, document["placement"])
    return document if traffic.speed is None else slowed(document, traffic.speed, assume, runner)


def _even_slots(server: Server, placement: dict) -> dict:
    """Loads are priced without replicas: every rank has equally many experts."""
    if not server.model.moe_layers:
        return placement
    routed = server.model.layers[server.model.moe_layers[0]].experts.routed
    if routed % server.ep:
        raise NotStated(f"a load on {server.ep} ranks that do not divide {routed} experts is not simulated")
    return {"kind": "contiguous", "slots_per_rank": routed // server.ep}


def capacity(server: Server, preset: str, lengths: Lengths) -> int:
    """Sequences of full length that one rank's KV cache holds, at most the preset's limit. Raises NotStated."""
    step = server.document() | {"workload": {"kind": "decode", "sequences_per_rank": 1, "context": 1}}
    step["routing"] = {"kind": "balanced"}
    try:
        deployment = assemble(document_of(step)).deployment
        policy = PRESETS[preset]
        whole = lengths.input + (lengths.output or 1)
        cached = kv_capacity(deployment, policy, whole) * kv_bytes(deployment, whole) / whole
    except MoesimError as error:
        raise NotStated(f"no such server: {error}") from None
    layers = tuple(
        replace(layer, attention=replace(layer.attention, window=0)) if layer.attention else layer
        for layer in deployment.model.layers
    )
    unwindowed = replace(deployment, model=replace(deployment.model, layers=layers))
    return max(1, min(policy.max_sequences, int(cached / kv_bytes(unwindowed, whole))))


def slowed(document: dict[str, object], speed: float, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """The load with the most requests in flight that still give every user `speed` tokens/s on average."""

    def with_flight(flight: int) -> dict[str, object]:
        load = {**document["load"], "requests": max(8, 2 * flight)}
        return {**document, "load": load | {"arrivals": {"kind": "closed_loop", "in_flight": flight}}}

    step = document["parallelism"]["attention_dp"]
    low, high = 1, max(1, document["load"]["arrivals"]["in_flight"] // step)
    if runner.run(with_flight(high * step)).tpot_s <= 1 / speed:
        low = high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if runner.run(with_flight(middle * step)).tpot_s <= 1 / speed else (low, middle)
    assume.note(f"{low * step} requests in flight, the most that leave every user {speed:g} tokens/s")
    return with_flight(low * step)
