"""Inference over pipeline stages: one program a stage, micro-batches one after another through all of them.

Prefill sends its micro-batches from an empty pipeline to an empty one. Decode keeps them in flight: the token that the
last stage samples goes back to the first, so that a micro-batch's next token starts when its last one is out and the
first stage is free. After the first round every round takes the time per output token,

    max(micro-batches · slowest stage, all stages and hand-overs in a row).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from moesim.cost.communication import library, message
from moesim.engine.program import Program
from moesim.hardware.precision import PRECISIONS
from moesim.network.transfer import Transfer
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.local import Work
from moesim.workload.pricing import Ledger
from moesim.workload.rows import row
from moesim.workload.split import StepSplit
from moesim.workload.stage import Stage

ROUNDS = 3  # tokens of each sequence that a decoding pipeline simulates: one fills it
TOKEN_BYTES = 4.0  # of a sampled token
BF16 = PRECISIONS["bf16"].bytes


def pipeline_programs(
    deployment: Deployment,
    stages: Sequence[Stage],
    batches: Sequence[Batch],
    splits: Sequence[Sequence[StepSplit]],
    overlap: Callable,
    ledger: Ledger,
) -> tuple[tuple[Program, ...], tuple[int, ...]]:
    """(one program a stage, last operation of each round in the program of the last stage).

    batches: the micro-batches. splits: [stage][micro-batch].
    """
    rounds = ROUNDS if batches[0].phase == "decode" else 1
    jobs = [(number, part) for number in range(rounds) for part in range(len(batches))]
    hand_over = [[_hidden(deployment, *pair, batch, ledger) for batch in batches] for pair in pairwise(stages)]
    tokens = [_tokens(deployment, stages[-1], stages[0], batch, ledger) for batch in batches]
    programs, marks = [], []
    for stage, parts in zip(stages, splits, strict=True):
        emit = Emitter(stage.ranks.ravel())
        arriving = _arriving(stage, jobs, hand_over, tokens)
        posted = _post(emit, arriving, 0)
        for job, (number, part) in enumerate(jobs):
            after, posted = posted, _post(emit, arriving, job + 1)  # posted ahead, as engines do
            if stage.index:
                after = row(emit, -1, parts[part].received(), after)
            after = overlap(emit, parts[part], after)
            if not stage.last:
                emit.message("send", hand_over[stage.index][part], after)
                continue
            after = row(emit, -1, parts[part].head(), after)
            if part == len(batches) - 1:
                marks.append(after[0])
            if number < rounds - 1:
                emit.message("send", tokens[part], after)
        programs.append(emit.program())
    return tuple(programs), tuple(marks)


def _arriving(stage: Stage, jobs: Sequence[tuple[int, int]], hand_over, tokens) -> list[Transfer | None]:
    """What each job of a stage waits for."""
    if stage.index:
        return [hand_over[stage.index - 1][part] for _, part in jobs]
    return [tokens[part] if number else None for number, part in jobs]


def _post(emit: Emitter, arriving: Sequence[Transfer | None], job: int) -> tuple[int, ...]:
    if job >= len(arriving) or arriving[job] is None:
        return ()
    return (emit.receive("receive", arriving[job]),)


def _hidden(deployment: Deployment, source: Stage, target: Stage, batch: Batch, ledger: Ledger) -> Transfer:
    """Hidden states to the ranks in the same place of the next stage; tensor-parallel ranks, which all have them, send
    a slice each."""
    p = source.parallelism
    tokens = -(-int(batch.tokens.max(initial=0)) // p.cp)
    size = tokens * deployment.model.hidden * BF16 / p.tp
    return _sent(deployment, source, target, np.arange(p.devices), size, ledger)


def _tokens(deployment: Deployment, source: Stage, target: Stage, batch: Batch, ledger: Ledger) -> Transfer:
    """Sampled tokens back to the first stage."""
    size = float(batch.sequences.max(initial=0)) * TOKEN_BYTES
    return _sent(deployment, source, target, np.arange(source.parallelism.devices), size, ledger)


def _sent(
    deployment: Deployment, source: Stage, target: Stage, places: np.ndarray, size: float, ledger: Ledger
) -> Transfer:
    ends = (side.ranks[:, places].ravel() for side in (source, target))
    sent = message(
        deployment.machine, deployment.network, *ends, np.array(size), fidelity=deployment.fidelity, name="hand_over"
    )
    low, high = library(deployment.machine, "point_to_point").interval
    for kind in ("send", "receive"):
        ledger.count(Work(kind, sent.alone_s, sent.alone_s * low, sent.alone_s * high))
    return sent
