"""Which deployment a figure stands for that names a speed of every user and no degrees: the best one at that speed.

Who publishes what a system gives "at" some speed, or under a latency limit (MLPerf, InferenceX), reports the best
of the deployments that were tried. So powers of two of devices up to the scale-up domain are compared, attention data
parallelism with EP as well as tensor parallelism inside one node: the most sequences over the devices that still leave
every user the speed. A step counts with the prompts that its sequences bring: each of them computes one anew as often
as it ends, and decoding waits for it, on all ranks together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from moesim.errors import MoesimError
from moesim.serving.kernels import kernel_tables
from moesim.serving.loads import DrawnLoads
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.serving.stack import StackSteps, kernel_counts
from moesim.serving.steps import Prefill, StepCost
from moesim.spec.assembly.step import assemble
from moesim.spec.serving.constants import load_fitted
from moesim.study.entries.deployment.server import SERVER, Server, domain, routed_experts_of
from moesim.study.entries.inference.lengths import Lengths
from moesim.study.entries.reading.case import NotStated
from moesim.study.entries.runs.documents import document_of

_LARGEST = 2048  # sequences of a rank that are tried


def best_at_speed(
    server: Server, preset: str, *, step_s: float, queries: int, lengths: Lengths, steps: float, devices: int
) -> tuple[Server, int]:
    """The server that decodes most sequences a device where a step takes at most `step_s`, and how many a rank.

    queries: tokens that a sequence computes in a step, 1 and its drafts. steps: of a sequence until it ends, inf where
    prompts are computed elsewhere. devices: of the whole system. Raises NotStated where none holds the model or is so
    fast.
    """
    found = []
    context = lengths.input + lengths.output // 2
    for candidate in _candidates(server, min(devices, domain(server.hardware))):
        try:
            price, room = _priced(candidate, preset, context)
        except MoesimError:
            continue
        ranks = candidate.attention_dp
        prompt_s = price.mixed_s(0, 0, 0, _prompt(lengths.input, ranks)) if math.isfinite(steps) else 0.0

        def seconds(sequences: int, price=price, ranks=ranks, prompt_s=prompt_s) -> float:
            computed = sequences * queries
            return price.decode_s(computed, computed * ranks, computed * context) + sequences / steps * prompt_s

        most = _most_sequences(seconds, min(room, _LARGEST), step_s)
        if most:
            found.append((most * ranks / candidate.devices, candidate, most))
    if not found:
        raise NotStated(f"no deployment holds the model and decodes a step in {step_s:.3g} s")
    return max(found, key=lambda each: each[0])[1:]


def prompt_seconds(server: Server, preset: str, tokens: int) -> float:
    """Seconds of a step in which every rank computes one prompt. Raises MoesimError."""
    steps, _ = _priced(server, preset, tokens)
    return steps.mixed_s(0, 0, 0, _prompt(tokens, server.attention_dp))


def _prompt(tokens: int, ranks: int) -> Prefill:
    """One prompt on every rank."""
    return Prefill(tokens, tokens * ranks, tokens * (tokens + 1) / 2, 1)


def _candidates(server: Server, devices: int) -> list[Server]:
    """Servers of powers of two of devices from the given one's: DEP, and TP inside a node."""
    found, size = [], server.devices
    experts = routed_experts_of(server.model)
    while size <= devices:
        if experts and experts % size == 0:
            found.append(replace(server, devices=size, attention_dp=size, ep=size))
        if size <= SERVER:
            found.append(replace(server, devices=size, attention_dp=1, ep=1))
        size *= 2
    return found


def _priced(server: Server, preset: str, context: int) -> tuple[StepCost, int]:
    """Step prices of the server's stack, and sequences that a rank's cache holds. Raises MoesimError."""
    experts = routed_experts_of(server.model)
    step = server.document() | {
        "workload": {"kind": "decode", "sequences_per_rank": 1, "context": 1},
        "routing": {"kind": "balanced"},
        "placement": {"kind": "contiguous", "slots_per_rank": experts // server.ep},
        "network": {"fidelity": "bound"},
    }
    deployment = assemble(document_of(step), fits=False).deployment
    room = int(kv_capacity(deployment, PRESETS[preset], context) / context)
    tables, constants = kernel_tables(deployment, DrawnLoads()), load_fitted().stacks[preset]
    return StackSteps(tables, kernel_counts(deployment), constants), room


def _most_sequences(seconds: Callable[[int], float], room: int, step_s: float) -> int:
    """The most sequences of a rank, at most `room`, that keep a step within `step_s`; 0 where not even one does."""
    low, high = 0, room
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(middle) <= step_s else (low, middle - 1)
    return low
