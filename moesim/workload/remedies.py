"""What to change when a step does not fit: single changes of a scenario, each computed to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.model import shapes
from moesim.placement.placement import Placement
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import footprint, largest, largest_batch
from moesim.workload.stage import even_layers

_WIDER = (2, 4, 8, 16, 32)  # times as many devices
# Formats from wide to narrow; a weight format also needs matrix units.
_WEIGHTS = ("fp8_block", "fp8", "mxfp8", "nvfp4", "mxfp4", "int4")
_CACHES = ("fp8",)


def remedies(deployment: Deployment, batch: Batch, received: int, **memory: float) -> list[str]:
    """Sentences, the mildest change first: each names a field and what to write there. [] when no single one helps.

    received: as `moesim.workload.footprint.footprint` takes it; memory: likewise.
    """

    def fits(changed: Deployment, work: Batch = batch, arrived: int = received) -> bool:
        needs = footprint(changed, work, arrived, **memory)
        return needs.needed <= needs.capacity

    found = [*_smaller(deployment, batch, received, fits, memory)]
    found += [*_narrower(deployment, fits)]
    return [*found, *_wider(deployment, batch, received, fits)]


def _smaller(deployment: Deployment, batch: Batch, received: int, fits: Callable, memory: dict) -> Iterator[str]:
    sequences = largest_batch(deployment, batch, received, **memory)
    if sequences >= deployment.microbatches:
        yield f"workload.sequences_per_rank: {sequences}"
    if batch.context > 1:
        context = largest(lambda tokens: fits(deployment, replace(batch, context=tokens)), batch.context)
        if context:
            yield f"workload.context: {context}"


def _narrower(deployment: Deployment, fits: Callable) -> Iterator[str]:
    policy, peaks = deployment.precision, deployment.machine.device.peak
    for field, activations in (("experts", "expert_activations"), ("dense", "activations")):
        now = getattr(policy, field)
        for name in _WEIGHTS:
            weights = PRECISIONS[name]
            own = PRECISIONS["bf16"] if name in ("mxfp4", "int4") else weights
            if weights.bits >= now.bits or matmul_peak(weights, own) not in peaks:
                continue
            if fits(replace(deployment, precision=replace(policy, **{field: weights, activations: own}))):
                yield f"precision.{field}: {name}"
                break
    for name in _CACHES:
        if PRECISIONS[name].bits < policy.kv.bits and fits(
            replace(deployment, precision=replace(policy, kv=PRECISIONS[name]))
        ):
            yield f"precision.kv: {name}"


def _wider(deployment: Deployment, batch: Batch, received: int, fits: Callable) -> Iterator[str]:
    """More devices by one degree: attention replicas and expert parallelism together, tensor parallelism, stages."""
    for change in (_more_replicas, _more_tensor_parallel, _more_stages):
        for times in _WIDER:
            try:
                made = change(deployment, batch, received, times)
                if made is None:
                    continue
                changed, work, arrived, words = made
                if fits(changed, work, arrived):
                    yield words
                    break
            except (InvalidInput, ValueError):  # heads, widths or layers do not divide so far
                continue


def _more_replicas(deployment: Deployment, batch: Batch, received: int, times: int):
    """The same batch on each of more replicas, fewer experts a rank."""
    p, placement = deployment.parallelism, deployment.placement
    if placement is None or p.attention_dp * p.cp == 1:
        return None
    wide = replace(p, devices=p.devices * times, attention_dp=p.attention_dp * times, ep=p.ep * times)
    if wide.ep > placement.experts:
        return None
    slots = -(-placement.slots_per_rank // times)
    work = replace(batch, sequences=np.tile(batch.sequences, times))
    words = f"{_devices(deployment, times)}, attention_dp: {wide.attention_dp}, ep: {wide.ep}, slots_per_rank: {slots}"
    return _placed(replace(deployment, parallelism=wide), wide.ep, slots), work, received, words


def _more_tensor_parallel(deployment: Deployment, batch: Batch, received: int, times: int):
    """Attention split further; experts over the new ranks, whole where there are enough of them, else split too."""
    p, placement = deployment.parallelism, deployment.placement
    ep, expert_tp = p.ep, p.expert_tp
    if placement is not None and ep * times <= placement.experts:
        ep *= times
    else:
        expert_tp *= times
    wide = replace(p, devices=p.devices * times, tp=p.tp * times, ep=ep, expert_tp=expert_tp)
    for layer in set(deployment.model.layers):
        shapes.attention_projections(layer, deployment.model.hidden, wide.tp)
        shapes.dense_ffn(layer, deployment.model.hidden, wide.tp)
        shapes.shared_expert(layer, deployment.model.hidden, wide.shared_expert_tp)
        shapes.routed_experts(layer, deployment.model.hidden, wide.expert_tp)
    changed, slots = replace(deployment, parallelism=wide), ""
    words = f"{_devices(deployment, times)}, tp: {wide.tp}, ep: {ep}, expert_tp: {expert_tp}"
    if placement is not None:
        count = -(-placement.slots_per_rank * p.ep // ep)
        changed, slots = _placed(changed, ep, count), f", slots_per_rank: {count}"
    return changed, batch, received, words + slots


def _more_stages(deployment: Deployment, batch: Batch, received: int, times: int):
    """More pipeline stages, as many micro-batches."""
    p, layers = deployment.parallelism, len(deployment.model.layers)
    pp = p.pp * times
    if pp > layers or int(batch.sequences.min(initial=1)) < pp:
        return None
    wide = replace(p, devices=p.devices * times, pp=pp)
    stages = tuple(even_layers(layers, pp))
    changed = replace(deployment, parallelism=wide, stage_layers=stages, microbatches=max(pp, deployment.microbatches))
    listed = f", stages: {list(stages)}" if layers % pp else ""
    return changed, batch, received, f"{_devices(deployment, times)}, pp: {pp}{listed}"


def _devices(deployment: Deployment, times: int) -> str:
    return f"cluster.devices: {deployment.cluster.ranks * times} with parallelism"


def _placed(deployment: Deployment, ranks: int, slots: int) -> Deployment:
    """The deployment with so many slots, whatever stands in them."""
    experts = deployment.placement.experts
    expert = np.arange(ranks * slots).reshape(1, ranks, slots) % experts
    return replace(deployment, placement=Placement("any", expert, experts))
