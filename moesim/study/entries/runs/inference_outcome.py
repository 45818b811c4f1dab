"""Run the inference scenario of a published figure: a load, or one step of a pool."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.errors import MoesimError
from moesim.serving.stack import StackSteps, kernel_counts
from moesim.spec.assembly.step import assemble
from moesim.spec.serving.assembly import serving_assembly
from moesim.spec.serving.constants import load_fitted
from moesim.study.entries.runs.documents import document_of
from moesim.study.entries.runs.outcome import Outcome, node_size
from moesim.study.serving_load.serve import ServeResult, serve
from moesim.study.step.run import run_assembly
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.overlap import MICROBATCHES

PERCENTILES = (50, 90, 99)


def load_outcome(data: Mapping[str, object]) -> Outcome:
    """Of a load's data. Raises MoesimError where no request finishes, InvalidInput, Infeasible."""
    result = serve(serving_assembly(document_of(data)))
    metrics, scenario = result.metrics, result.assembly.scenario
    table = result.table[result.table["status"] == "finished"]
    if table.empty:
        raise MoesimError("no request fits the server's KV cache or token budget")
    finished = table["submitted_s"] + table["latency_s"]
    total = float(finished.max() - table["submitted_s"].min())
    seconds = _by_kind(result)
    seconds["idle"] = max(total - sum(seconds.values()), 0.0)
    deployment = result.assembly.decode.deployment
    return Outcome(
        devices=int(metrics["devices"]),
        node=node_size(deployment.cluster),
        total_s=total,
        seconds=seconds,
        input_tokens=float(table["input_len"].sum()),
        output_tokens=float(table["output_len"].sum()),
        sequences=float(len(table)),
        ranks=deployment.parallelism.attention_dp * scenario.servers,
        ttft=_statistics(table["ttft_s"]),
        tpot=_statistics(table["tpot_s"]),
        peak_flops_per_s=deployment.machine.device.peak.get("bf16", 0.0),
    )


def _by_kind(result: ServeResult) -> dict[str, float]:
    """Seconds by kind of the mean server's steps, of both pools where there are two, each at its pool's prices."""
    found: dict[str, float] = {}
    prefill = result.assembly.scenario.prefill
    first = prefill.servers if prefill else 0  # journals are the prefill pool's first
    for place, journal in enumerate(result.run.journals):
        cost, rows = result.costs[0 if place < first else -1], journal.table()
        kinds = cost.by_kind(rows) if isinstance(cost, StackSteps) else {"step": float(rows["seconds"].sum())}
        for kind, seconds in kinds.items():
            found[kind] = found.get(kind, 0.0) + seconds / len(result.run.journals)
    return found


def _statistics(values) -> dict[str, float]:
    values = values.dropna()
    if values.empty:
        return {}
    return {"mean": float(values.mean())} | {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}


def step_outcome(data: Mapping[str, object]) -> Outcome:
    """Of a prefill or decode step's data. Raises InvalidInput, Infeasible."""
    document = document_of(data)
    assembly = assemble(document)
    metrics = run_assembly(document, assembly).metrics
    simulated, batch = float(metrics["step_time_s"]), assembly.batch
    decode = batch.phase == "decode"
    exposed = float(metrics["exposed_communication_s"])
    host = stack_seconds(assembly.deployment, batch, data["overlap"]["kind"], exposed) if decode else 0.0
    total = simulated + host
    tokens = float(batch.sequences.sum() if decode else batch.tokens.sum())
    return Outcome(
        devices=assembly.deployment.cluster.ranks,
        node=node_size(assembly.deployment.cluster),
        total_s=total,
        seconds=_exposed(metrics, simulated) | ({"host": host} if decode else {}),
        input_tokens=0.0 if decode else tokens,
        output_tokens=tokens if decode else 0.0,
        sequences=float(batch.sequences.sum()),
        ranks=assembly.deployment.parallelism.attention_dp,
        tpot={"mean": total} if decode else {},
        ttft={} if decode else {"mean": total},
        peak_flops_per_s=assembly.deployment.machine.device.peak.get("bf16", 0.0),
        low=(float(metrics["step_time_low_s"]) + host) / total,
        high=(float(metrics["step_time_high_s"]) + host) / total,
    )


def stack_seconds(deployment: Deployment, batch: Batch, overlap: str, exposed_s: float) -> float:
    """What a stack adds to a decode step of kernels: its host's fixed time and time a sequence, and the small kernels
    that no cost model prices, as `moesim.serving.stack` has them fitted to serving runs. Each of overlapping
    micro-batches launches its own, while the other's tokens are on the wire: `exposed_s`, in which ranks would compute
    nothing, hides them. Stacks without constants take SGLang's."""
    stacks, counts = load_fitted().stacks, kernel_counts(deployment)
    constants = stacks.get((deployment.machine.software or "").split(" ")[0], stacks["sglang"])
    small = counts.layers * counts.unpriced * constants.kernel
    if overlap in MICROBATCHES:
        small = max(small * MICROBATCHES[overlap] - exposed_s, 0.0)
    return constants.fixed + constants.sequence * float(batch.sequences.max()) + small


def _exposed(metrics: Mapping[str, object], total: float) -> dict[str, float]:
    """communication: what shows of it; compute: the rest."""
    exposed = float(metrics["exposed_communication_s"])
    return {"communication": exposed, "compute": total - exposed}
