"""From a simulated training step to the numbers people ask for.

A rank's step is divided without rest: it computes, or it stands still for a collective (exposed communication, by
kind), or it waits for its neighbours in the pipeline (the bubble, hand-overs included), or for the end of the step.
"""

from __future__ import annotations

import math

import numpy as np

from moesim import units
from moesim.engine.timeline import Timeline, Track
from moesim.workload.training.flops import model_flops, model_flops_per_token
from moesim.workload.training.job import Job
from moesim.workload.training.routed import Draws, draw_of
from moesim.workload.training.step import TrainingStep

BUBBLE, END = "pipeline_bubble", "end_of_step"


def training_metrics(job: Job, step: TrainingStep, timeline: Timeline) -> dict[str, object]:
    """Headline, breakdown and hot spots of one training step. Times in seconds, sizes in bytes."""
    seconds = timeline.makespan_s
    breakdown = breakdown_s(timeline)
    low, high = interval_s(seconds, breakdown, step)
    flops, devices = model_flops(job), job.cluster.ranks
    peak = job.machine.device.peak["bf16"]
    compute = {op.kind for track in timeline.tracks for op in track.program.ops if op.transfer is None}
    waits = {kind: value for kind, value in breakdown.items() if kind.startswith("exposed_")}
    return {
        "step_time_s": seconds,
        "step_time_low_s": low,
        "step_time_high_s": high,
        "tokens_per_s": job.step_tokens / seconds,
        "tokens_per_s_per_device": job.step_tokens / seconds / devices,
        "model_flops_per_token": model_flops_per_token(job),
        "model_flops_per_s_per_device": flops / seconds / devices,
        "mfu": flops / seconds / devices / peak,
        "bubble_share": (breakdown.get(BUBBLE, 0.0) + breakdown.get(END, 0.0)) / seconds,
        "exposed_communication_s": sum(waits.values()),
        "computing_s": sum(value for kind, value in breakdown.items() if kind in compute),
        "microbatches": job.microbatches,
        "breakdown_s": dict(sorted(breakdown.items(), key=lambda item: -item[1])),
        "hottest_rank": hottest_rank(job, step.draws),
    }


def breakdown_s(timeline: Timeline) -> dict[str, float]:
    """Mean over ranks of the seconds of each kind of work, ``exposed_KIND`` of each collective, the bubble and the wait
    for the end of the step; they add up to the step."""
    total: dict[str, float] = {}
    ranks = sum(track.program.ranks.size for track in timeline.tracks)
    end = max(int(track.end.max(initial=0)) for track in timeline.tracks)
    for track in timeline.tracks:
        for kind, ticks in _of_track(track, end).items():
            total[kind] = total.get(kind, 0.0) + ticks / units.TICKS_PER_SECOND / ranks
    return {kind: value for kind, value in total.items() if value > 0}


def _of_track(track: Track, end: int) -> dict[str, float]:
    """Ticks by kind, summed over the ranks of a program."""
    total: dict[str, float] = {}
    everybody = np.arange(track.program.ranks.size)
    before = np.zeros(everybody.size, dtype=np.int64)
    for index, op in enumerate(track.program.ops):
        if op.stream != "compute":
            continue
        if (track.start[index] > before).any():
            _charge(track, index, everybody, before, total)
        total[op.kind] = total.get(op.kind, 0.0) + float((track.end[index] - track.start[index]).sum())
        before = track.end[index]
    total[END] = total.get(END, 0.0) + float((end - before).sum())
    return total


def _charge(track: Track, index: int, ranks: np.ndarray, since: np.ndarray, total: dict[str, float]) -> None:
    """Say what ranks [ranks] waited for between `since` [ranks] and the start of an operation.

    Of what the operation waited for, the one that ended last counts (of equals the one named last) from where it began
    on that rank; what lies before is what that one waited for in turn. A collective that waited for its stream's turn
    counts itself.
    """
    ops, begin = track.program.ops, track.start[index, ranks]
    after = ops[index].after
    ends = track.end[np.ix_(after, ranks)] if after else np.zeros((1, ranks.size), dtype=np.int64)
    until = np.minimum(begin, np.maximum(ends.max(axis=0), since))
    _add(total, ops[index].kind, begin - until)
    if not after:
        return
    latest = len(after) - 1 - ends[::-1].argmax(axis=0)
    for position in np.unique(latest):
        here, cause = latest == position, after[position]
        begun = np.clip(track.start[cause, ranks[here]], since[here], until[here])
        _add(total, ops[cause].kind, until[here] - begun)
        earlier = begun > since[here]
        if earlier.any():
            _charge(track, cause, ranks[here][earlier], since[here][earlier], total)


def _add(total: dict[str, float], kind: str, ticks: np.ndarray) -> None:
    kind = _waited_for(kind)
    total[kind] = total.get(kind, 0.0) + float(ticks.sum())


def _waited_for(kind: str) -> str:
    return BUBBLE if kind.startswith(("receive_", "send_")) else f"exposed_{kind}"


def interval_s(seconds: float, breakdown: dict[str, float], step: TrainingStep) -> tuple[float, float]:
    """80 % interval: errors of one kind of operation add up over the step, those of different kinds are independent.

    The bubble scales with the work that it waits for.
    """
    below = above = 0.0
    idle = sum(breakdown.get(kind, 0.0) for kind in (BUBBLE, END))
    stretch = seconds / (seconds - idle) if seconds > idle else 1.0
    for kind, spent in breakdown.items():
        span = step.spans.get(_priced_as(kind))
        if span is not None and span.seconds > 0:
            below += (spent * stretch * (1 - span.low / span.seconds)) ** 2
            above += (spent * stretch * (span.high / span.seconds - 1)) ** 2
    return max(seconds - math.sqrt(below), 0.0), seconds + math.sqrt(above)


def _priced_as(kind: str) -> str:
    """The name under which a waited-for collective was priced: gradients travel as dispatch and combine do."""
    return kind.removeprefix("exposed_").removeprefix("gradient_")


def hottest_rank(job: Job, draws: Draws | None) -> dict[str, float] | None:
    """Token-expert pairs of the hottest rank over the mean: over all microbatches and layers of its stage, and of the
    hottest rank of the mean layer and microbatch, which is what a layer waits for."""
    if draws is None:
        return None
    pairs = draws.tokens.sum(axis=-1).astype(float)  # [draw, layer, ep rank]
    mean = np.maximum(pairs.mean(axis=-1), 1e-300)
    stage = np.array([_stage_of(job, row) for row in range(pairs.shape[1])])
    by_stage = np.stack([pairs[:, stage == s].sum(axis=(0, 1)) for s in np.unique(stage)])
    return {
        "over_mean": float((by_stage.max(axis=1) / np.maximum(by_stage.mean(axis=1), 1e-300)).max()),
        "per_layer_over_mean": float((pairs.max(axis=-1) / mean).mean()),
        "draws": len(np.unique([draw_of(job, variant) for variant in range(job.windows)])),
    }


def _stage_of(job: Job, row: int) -> int:
    rows = [sum(job.layer(i).experts is not None for i in job.layers(stage)) for stage in range(len(job.stages))]
    return int(np.searchsorted(np.cumsum(rows), row, side="right"))
