"""From a simulated step to the numbers people ask for, as plain data that JSON can hold."""

from __future__ import annotations

import math

import numpy as np

from moesim.engine.timeline import Timeline
from moesim.placement.placement import Placement
from moesim.study.step.links import link_load
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.inference import Step


def step_metrics(deployment: Deployment, batch: Batch, step: Step, timeline: Timeline) -> dict[str, object]:
    """Headline, bounds, breakdown and hot spots of one inference step. Times in seconds, sizes in bytes."""
    seconds, rounds = step.seconds(timeline), step.rounds
    low, high = step_interval(step, timeline)
    tokens = int(batch.tokens.sum()) * deployment.instances
    decode = batch.phase == "decode"
    breakdown = {kind: spent / rounds for kind, spent in timeline.by_kind_s().items()}
    return {
        "step_time_s": seconds,
        "step_time_low_s": low,
        "step_time_high_s": high,
        "tpot_s": seconds if decode else None,
        "tokens_per_s": tokens / seconds,
        "tokens_per_s_per_device": tokens / seconds / deployment.cluster.ranks,
        "lower_bound_s": timeline.lower_bound_s() / rounds,
        "upper_bound_s": timeline.upper_bound_s() / rounds,
        "breakdown_s": dict(sorted(breakdown.items(), key=lambda item: -item[1])),
        "exposed_communication_s": timeline.exposed_s() if rounds == 1 else seconds - busy_s(timeline) / rounds,
        "waiting_s": sum(timeline.waiting_s().values()) / rounds,
        "hottest_rank": hottest_rank(step),
        "hottest_expert": hottest_expert(step, deployment.placement),
        "hottest_link": hottest_link(deployment, timeline, rounds),
    }


def busy_s(timeline: Timeline) -> float:
    """Mean over ranks of the seconds in which they compute."""
    ranks = sum(track.program.ranks.size for track in timeline.tracks)
    total = 0.0
    for track in timeline.tracks:
        computing = [index for index, op in enumerate(track.program.ops) if op.stream == "compute"]
        total += float(track.busy_s()[computing].sum())
    return total / ranks


def per_step(metrics: dict[str, object], steps: int) -> dict[str, object]:
    """Metrics of so many steps that ran one after another, as those of the mean step."""
    one = dict(metrics)
    for key, value in metrics.items():
        if key == "breakdown_s":
            one[key] = {kind: seconds / steps for kind, seconds in value.items()}
        elif key.endswith("_s") and value is not None:
            one[key] = value / steps
    return one | {key: metrics[key] * steps for key in ("tokens_per_s", "tokens_per_s_per_device")}


def step_interval(step: Step, timeline: Timeline) -> tuple[float, float]:
    """80 % interval of the step time.

    Errors of one cost function are fully correlated over layers and ranks, those of different functions independent:
    half-widths add up within a kind and in quadrature between kinds, each weighed by the share of the step in which
    the kind runs on the average rank.
    """
    seconds = step.seconds(timeline)
    below = above = 0.0
    for kind, total in timeline.by_kind_s().items():
        work, spent = step.work.get(kind), total / step.rounds
        if work is not None and work.seconds > 0:
            below += (spent * (1 - float(work.low / work.seconds))) ** 2
            above += (spent * (float(work.high / work.seconds) - 1)) ** 2
    return max(seconds - math.sqrt(below), 0.0), seconds + math.sqrt(above)


def hottest_rank(step: Step) -> dict[str, object] | None:
    """The rank that computes most token copies over the step, against the mean; and the mean over layers of the
    hottest rank of each layer, which is what a layer waits for."""
    if not step.traffic[0]:
        return None
    by_layer = [
        np.concatenate([part[layer].tokens.sum(axis=1) for part in step.traffic])
        for layer in range(len(step.traffic[0]))
    ]  # [layer][expert-parallel rank of all instances]
    load = np.stack(by_layer)
    mean = np.maximum(load.mean(axis=1), 1e-300)
    ranks = first_of_expert_groups(step)
    total = np.zeros(ranks.max() + 1)
    np.add.at(total, ranks, load)
    total = total[np.unique(ranks)]
    return {
        "rank": int(np.unique(ranks)[total.argmax()]),
        "over_mean": float(total.max() / total.mean()),
        "per_layer_over_mean": float((load.max(axis=1) / mean).mean()),
    }


def first_of_expert_groups(step: Step) -> np.ndarray:
    """[moe_layer, expert-parallel rank of all instances] rank of the cluster, the first where several split experts."""
    rows = []
    for layer in step.moe_stages:
        stage = step.stages[layer]
        first = stage.parallelism.ep_groups[0]
        rows.append(stage.ranks[:, first].ravel())
    return np.stack(rows)


def hottest_expert(step: Step, placement: Placement | None) -> dict[str, object] | None:
    """The expert with the largest load of its layer against that layer's mean, all replicas together."""
    if placement is None:
        return None
    load = expert_load(step, placement)
    over_mean = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-300)
    layer, expert = np.unravel_index(int(over_mean.argmax()), load.shape)
    return {
        "moe_layer": int(layer),
        "expert": int(expert),
        "over_mean": float(over_mean.max()),
        "per_layer_over_mean": float(over_mean.max(axis=1).mean()),
    }


def expert_load(step: Step, placement: Placement) -> np.ndarray:
    """Token copies [moe_layer, expert] of the step, replicas and instances added up."""
    load = np.zeros((len(step.traffic[0]), placement.experts))
    for part in step.traffic:
        for layer, traffic in enumerate(part):
            np.add.at(load[layer], placement.expert[layer].ravel(), traffic.tokens.ravel())
    return load


def hottest_link(deployment: Deployment, timeline: Timeline, rounds: int = 1) -> dict[str, object] | None:
    """The link with the largest share of its capacity used over the step. rounds: steps that the timeline holds."""
    found = link_load(deployment, timeline, rounds)
    if not found.load.any():
        return None
    link = int(np.argmax(found.utilisation))
    source, target = deployment.network.links.ends[link]
    used, size = float(found.utilisation[link]), float(found.load[:, link].sum())
    return {"from": source, "to": target, "utilisation": used, "bytes": size}
