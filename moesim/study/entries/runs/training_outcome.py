"""Run the training scenario of a published figure.

A pipeline repeats itself: beyond its warm-up a step grows by the same time for each further microbatch. Steps of many
microbatches are therefore simulated with few and with a few more, and continued in a straight line
(`tests/study/entries/training/test_cases.py` compares with whole steps).
"""

from __future__ import annotations

from collections.abc import Mapping

from moesim.model.architecture import MoEModel
from moesim.spec.training.assembly import assemble_training, with_microbatches
from moesim.study.entries.runs.documents import document_of
from moesim.study.entries.runs.outcome import Outcome, node_size
from moesim.study.step.train import TrainingResult, run_training, run_training_assembly
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import Span

# Kinds of work that calibrations weigh, by how the breakdown's names begin; what else computes is dense.
_KINDS = (
    ("experts", ("experts", "recomputed_experts")),
    ("exchange", ("exposed_dispatch", "exposed_combine", "exposed_gradient_dispatch", "exposed_gradient_combine")),
    ("sharding", ("exposed_gradients", "exposed_parameters", "exposed_weights", "optimizer")),
    ("collectives", ("exposed_",)),
    ("bubble", ("pipeline_bubble", "end_of_step")),
)
_FORWARD = ("attention", "dense_ffn", "shared_expert", "router")  # what is recomputed where whole layers are
_FEWEST = 8  # microbatches of the shorter of the two steps, at least


def training_outcome(data: Mapping[str, object]) -> Outcome:
    """The outcome of a training scenario's data. Raises InvalidInput, Infeasible."""
    many, few, more = _microbatches(data)
    if few is None:
        return _run(data)
    document = document_of(_cut(data, many, few))
    assembly = assemble_training(document)
    short = _outcome(run_training_assembly(document, assembly))
    long = _outcome(run_training_assembly(document, with_microbatches(assembly, more)))
    return _continued(short, few, long, more, many)


def _microbatches(data: Mapping[str, object]) -> tuple[int, int | None, int | None]:
    """(of a replica, of a short step, of a longer one); None where the whole step is short enough."""
    degrees, work = data["parallelism"], data["workload"]
    stages = degrees.get("pp", 1)
    replicas = data["cluster"]["devices"] // (degrees.get("tp", 1) * degrees.get("cp", 1) * stages)
    many = max(1, work["global_batch"] // (work["microbatch"] * replicas))
    unit = 2 * stages if data["schedule"]["kind"] == "dualpipe" else stages
    few = unit * -(-max(_FEWEST, 2 * stages) // unit)
    more = few + unit * -(-max(4, stages) // unit)
    return (many, few, more) if many > more + few // 2 and many % unit == 0 else (many, None, None)


def _cut(data: Mapping[str, object], many: int, microbatches: int) -> dict[str, object]:
    work = data["workload"]
    return {**data, "workload": {**work, "global_batch": work["global_batch"] // many * microbatches}}


def _continued(short: Outcome, few: int, long: Outcome, more: int, many: int) -> Outcome:
    """The step of `many` microbatches, in a straight line through those of `few` and `more`."""

    def at(one: float, other: float) -> float:
        return one + (other - one) * (many - few) / (more - few)

    kinds = {*short.seconds, *long.seconds}
    seconds = {kind: max(at(short.seconds.get(kind, 0.0), long.seconds.get(kind, 0.0)), 0.0) for kind in sorted(kinds)}
    return Outcome(
        devices=short.devices,
        node=short.node,
        total_s=at(short.total_s, long.total_s),
        seconds=seconds,
        input_tokens=at(short.input_tokens, long.input_tokens),
        sequences=at(short.sequences, long.sequences),
        ranks=short.ranks,
        passes=at(short.passes, long.passes),
        expert_passes=at(short.expert_passes, long.expert_passes),
        serial=short.serial,
        scans=at(short.scans, long.scans),
        model_flops=at(short.model_flops, long.model_flops),
        peak_flops_per_s=short.peak_flops_per_s,
        low=long.low,
        high=long.high,
    )


def scans(model: MoEModel, tokens: float) -> float:
    """10^12 elements of the states of linear attention that so many tokens update."""
    linear = [layer.attention for layer in model.layers if layer.attention and layer.attention.kind == "linear"]
    return tokens * sum(a.heads * a.head_dim * a.v_head_dim for a in linear) / 1e12


def _run(data: Mapping[str, object]) -> Outcome:
    return _outcome(run_training(document_of(data)))


def _outcome(result: TrainingResult) -> Outcome:
    metrics, job = result.metrics, result.assembly.job
    total = float(metrics["step_time_s"])
    seconds: dict[str, float] = {}
    for kind, value in metrics["breakdown_s"].items():
        for group, part in _parts(kind, float(value), result.step.spans).items():
            seconds[group] = seconds.get(group, 0.0) + part
    return Outcome(
        devices=job.cluster.ranks,
        node=node_size(job.cluster),
        total_s=total,
        seconds=seconds,
        input_tokens=float(job.step_tokens),
        sequences=float(job.step_tokens // job.sequence),
        ranks=job.cluster.ranks,
        passes=_launched(job, len(job.model.layers), "attention", "experts"),
        expert_passes=_launched(job, len(job.model.moe_layers), "experts")
        * (job.placement.slots_per_rank if job.placement else 0),
        serial=job.graphs is not True and bool(getattr(result.assembly.scenario.schedule, "pairs", False)),
        scans=scans(job.model, job.step_tokens / job.cluster.ranks),
        model_flops=float(metrics["model_flops_per_token"]) * job.step_tokens,
        peak_flops_per_s=job.machine.device.peak.get("bf16", 0.0),
        low=float(metrics["step_time_low_s"]) / total,
        high=float(metrics["step_time_high_s"]) / total,
    )


def _launched(job: Job, layers: int, *parts: str) -> float:
    """Passes of so many layers of the model that a rank's host launches, all or some of these parts of them."""
    share = sum(not job.captured(part) for part in parts) / len(parts)
    return share * job.microbatches * layers / job.parallelism.pp


def _parts(kind: str, seconds: float, spans: Mapping[str, Span]) -> dict[str, float]:
    """Seconds of one entry of the breakdown by kind of work. Of what experts and dense parts compute, products remain,
    attention kernels and element-wise passes are kinds of their own, whichever part of a layer they belong to."""
    group = next((name for name, prefixes in _KINDS if kind.startswith(prefixes)), "dense")
    if group not in ("experts", "dense"):
        return {group: seconds}
    again = "experts" if kind == "recomputed_experts" else kind
    priced = [spans[again]] if again in spans else [spans[name] for name in _FORWARD if name in spans]
    whole = sum((part for part in priced), Span())
    moved, attended = (part / whole.seconds if whole.seconds else 0.0 for part in (whole.moved, whole.attended))
    found = {group: 1 - moved - attended, "element_wise": moved, "attention": attended}
    return {name: seconds * share for name, share in found.items() if share > 0}
