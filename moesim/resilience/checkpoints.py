"""Checkpoints: how many bytes, how long they stop the job, when they are safe, and how often to take one.

Young's interval is √(2·δ·M), Daly's higher-order one √(2·δ·M)·[1 + √(δ/(2M))/3 + δ/(18M)] − δ for δ < 2M, else M
(J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22, 2006, eq. 37);
δ: seconds that a checkpoint stops the job, M: mean time between failures of the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.trace import RouterTrace
from moesim.units import format_bytes


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """What a job does to be able to go back.

    interval_s: of work between the starts of two checkpoints. pause_s: that one stops the job. write_s: from its start
    until it is safe; a background write when longer than the pause. load_s: to read it back.
    """

    interval_s: float
    pause_s: float
    write_s: float
    load_s: float


def delta(state_bytes: float, *, expert_share: float, touched: float) -> float:
    """What changed since the one before: everything but routed experts, and of those the ones that got a token.

    expert_share: of the state that belongs to routed experts. touched: share of experts with at least one token since
    (`touched_share`). Needs an optimizer that leaves experts without a gradient alone, as sparse ones do.
    """
    return state_bytes * ((1 - expert_share) + expert_share * touched)


def touched_share(trace: RouterTrace, tokens: float) -> float:
    """Share of experts (mean over layers) that `tokens` tokens choose at least once.

    Up to the length of the trace, counted on windows of it; beyond, an expert that has a share p of a layer's choices
    stays untouched with chance (1 − p)^(k·tokens), and one that the whole trace never chooses stays untouched.
    """
    ids = np.asarray(trace.ids)
    total = ids.shape[0]
    if tokens <= total:
        width = max(1, int(tokens))
        starts = np.linspace(0, total - width, num=min(16, total - width + 1)).astype(int)
        return float(np.mean([_chosen(ids[start : start + width], trace.experts) for start in starts]))
    layers = np.arange(trace.layers)[None, :, None]
    counts = np.zeros((trace.layers, trace.experts))
    np.add.at(counts, (np.broadcast_to(layers, ids.shape), ids), 1)
    share = counts / counts.sum(axis=1, keepdims=True)
    untouched = np.exp(trace.top_k * tokens * np.log1p(-np.minimum(share, 1 - 1e-12)))
    return float(1 - untouched.mean())


def _chosen(ids: np.ndarray, experts: int) -> float:
    seen = np.zeros((ids.shape[1], experts), dtype=bool)
    seen[np.broadcast_to(np.arange(ids.shape[1])[None, :, None], ids.shape), ids] = True
    return float(seen.mean())


def check_storage(size: float, kept: int, storage: float) -> None:
    """Raise InvalidInput where `kept` checkpoints of a size do not fit in the storage (bytes)."""
    if size * kept > storage:
        raise InvalidInput(
            Problem(
                f"{kept} checkpoint(s) of {format_bytes(size)} do not fit in {format_bytes(storage)} of storage; keep "
                "fewer, save a delta, or write more storage",
                "checkpoint.storage",
            )
        )


def young(pause_s: float, mtbf_s: float) -> float:
    """Young's interval of work between checkpoints, seconds."""
    return math.sqrt(2 * pause_s * mtbf_s)


def daly(pause_s: float, mtbf_s: float) -> float:
    """Daly's interval of work between checkpoints, seconds."""
    if pause_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = pause_s / (2 * mtbf_s)
    return young(pause_s, mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - pause_s


def expected_stretch(interval_s: float, pause_s: float, restart_s: float, mtbf_s: float) -> float:
    """Expected wall time over work time with memory-less failures: Daly's exact form, M/τ·e^(R/M)·(e^((τ+δ)/M) − 1).

    restart_s: R, from a failure until work goes on. Assumes that a checkpoint is safe when its pause ends.
    """
    cycle = (interval_s + pause_s) / mtbf_s
    return mtbf_s / interval_s * math.exp(restart_s / mtbf_s) * math.expm1(cycle)
