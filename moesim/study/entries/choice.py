"""Which deployment a figure stands for that names a speed of every user and no degrees: the best one at that speed.

Who publishes what a system gives "at" some speed, or under a latency limit (MLPerf, InferenceX), reports the best
of the deployments that were tried. So powers of two of devices up to the scale-up domain are compared, attention data
parallelism with EP as well as tensor parallelism inside one node, by decode steps alone: the most sequences that still
leave every user the speed, over the devices.
"""

from __future__ import annotations

from dataclasses import replace

from moesim.errors import MoesimError
from moesim.serving.kernels import kernel_tables
from moesim.serving.loads import REALISTIC_SIGMA
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.serving.stack import StackSteps, kernel_counts
from moesim.serving.steps import StepCost
from moesim.spec.assembly import assemble
from moesim.spec.serving_constants import load_fitted
from moesim.study.entries.deployment import SERVER, Server, domain, routed_experts_of
from moesim.study.entries.documents import document_of

_LARGEST = 2048  # sequences of a rank that are tried


def best_at_speed(
    server: Server, preset: str, *, step_s: float, queries: int, context: int, devices: int
) -> tuple[Server, int]:
    """The server that decodes most sequences a device where a step takes at most `step_s`, and how many a rank.

    queries: tokens that a sequence computes in a step, 1 and its drafts. context: cached tokens of a sequence. devices:
    of the whole system. Servers that do not hold the model are left out; without
    any other the given one stays, with one sequence.
    """
    found = [(0.0, server, 1)]
    for candidate in _candidates(server, min(devices, domain(server.hardware))):
        try:
            steps, room = _priced(candidate, preset, context)
        except MoesimError:
            continue
        ranks = candidate.attention_dp
        most = _most_sequences(steps, ranks, min(room, _LARGEST), step_s, queries, context)
        found.append((most * ranks / candidate.devices, candidate, max(most, 1)))
    return max(found, key=lambda each: each[0])[1:]


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
    tables, constants = kernel_tables(deployment, sigma=REALISTIC_SIGMA), load_fitted().stacks[preset]
    return StackSteps(tables, kernel_counts(deployment), constants), room


def _most_sequences(steps: StepCost, ranks: int, room: int, step_s: float, queries: int, context: int) -> int:
    """The most sequences of a rank, at most `room`, that keep a step within `step_s`; 0 where not even one does."""

    def seconds(sequences: int) -> float:
        computed = sequences * queries
        return steps.decode_s(computed, computed * ranks, computed * context)

    low, high = 0, room
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(middle) <= step_s else (low, middle - 1)
    return low
