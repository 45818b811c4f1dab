"""Run the scenario of a published figure and keep what figures are read off: times by kind of work, tokens, latencies.

Equal scenarios run once. Outcomes stay in a folder, one small file each, named by a digest of the scenario, the code
and the files that it names, so that an interrupted validation goes on where it stopped and never reads a stale result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from moesim.errors import MoesimError
from moesim.spec.serving_assembly import serving_assembly
from moesim.study.entries.documents import document_of
from moesim.study.results.inputs import Inputs

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated scenario gives.

    total_s: of the step, or of the load. seconds: the same by kind of work, on the average rank or server.
    input_tokens, output_tokens, sequences: of the whole system in that time. ttft, tpot: seconds over requests by
    statistic (``mean``, ``p99`` …), empty where there are none. passes: layers that a rank runs forward and back,
    launched by its host; none from captured graphs. expert_passes: the same, as often as the rank has local experts in
    the layer, whose products are launched one by one. scans: 10^12 elements of the states of linear attention that a
    rank updates in a training step. low, high: factors of the cost models' 80 % interval.
    """

    devices: int
    node: int
    total_s: float
    seconds: dict[str, float]
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    sequences: float = 0.0
    ranks: int = 1
    ttft: dict[str, float] = field(default_factory=dict)
    tpot: dict[str, float] = field(default_factory=dict)
    passes: float = 0.0
    expert_passes: float = 0.0
    scans: float = 0.0
    model_flops: float = 0.0
    peak_flops_per_s: float = 0.0
    low: float = 1.0
    high: float = 1.0

    @property
    def tpot_s(self) -> float:
        """Mean seconds per output token of a user."""
        return self.tpot.get("mean", self.total_s)


class DoesNotFit(MoesimError):
    """A scenario needs more memory than a device has; kept as a text that begins so."""


class Runner:
    """Runs documents, each once. cache: folder of outcomes, None for none."""

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._known: dict[str, Outcome | str] = {}

    def run(self, data: Mapping[str, object]) -> Outcome:
        """The outcome of a scenario's data. Raises MoesimError as the scenario's own command would."""
        key = digest(data)
        if key not in self._known:
            self._known[key] = self._read(key) or self._simulate(data, key)
        found = self._known[key]
        if isinstance(found, str):
            raise DoesNotFit(found) if "does not fit" in found else MoesimError(found)
        return found

    def _simulate(self, data: Mapping[str, object], key: str) -> Outcome | str:
        try:
            found: Outcome | str = simulate(data)
        except MoesimError as error:
            found = str(error)
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            partial = self._cache / f"published-{key}.partial"
            partial.write_text(json.dumps(found if isinstance(found, str) else asdict(found)), encoding="utf-8")
            os.replace(partial, self._cache / f"published-{key}.json")
        return found

    def _read(self, key: str) -> Outcome | str | None:
        if self._cache is None:
            return None
        try:
            found = json.loads((self._cache / f"published-{key}.json").read_text(encoding="utf-8"))
            return found if isinstance(found, str) else Outcome(**found)
        except (OSError, ValueError, TypeError):
            return None


def simulate(data: Mapping[str, object]) -> Outcome:
    """Run a scenario's data, whatever its kind. Raises InvalidInput, Infeasible."""
    plain = {key: value for key, value in data.items() if key != "expected"}
    if "load" in data:
        return _serve(plain)
    if data.get("workload", {}).get("kind") == "training":
        from moesim.study.entries.training_outcome import training_outcome

        return training_outcome(plain)
    return _step(plain)


def _serve(data: Mapping[str, object]) -> Outcome:
    from moesim.study.serving_load.serve import serve

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


def _by_kind(result) -> dict[str, float]:
    """Seconds by kind of the mean server's steps, of both pools where there are two."""
    found: dict[str, float] = {}
    cost = result.costs[-1]
    for journal in result.run.journals:
        rows = journal.table()
        kinds = cost.by_kind(rows) if hasattr(cost, "by_kind") else {"step": float(rows["seconds"].sum())}
        for kind, seconds in kinds.items():
            found[kind] = found.get(kind, 0.0) + seconds / len(result.run.journals)
    return found


def _statistics(values) -> dict[str, float]:
    values = values.dropna()
    if values.empty:
        return {}
    return {"mean": float(values.mean())} | {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}


def _step(data: Mapping[str, object]) -> Outcome:
    from moesim.spec.assembly import assemble
    from moesim.study.step.run import run_assembly

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


def stack_seconds(deployment, batch, overlap: str, exposed_s: float) -> float:
    """What a stack adds to a decode step of kernels: its host's fixed time and time a sequence, and the small kernels
    that no cost model prices, as `moesim.serving.stack` has them fitted to serving runs. Each of overlapping
    micro-batches launches its own, while the other's tokens are on the wire: `exposed_s`, in which ranks would compute
    nothing, hides them. Stacks without constants take SGLang's."""
    from moesim.serving.stack import kernel_counts
    from moesim.spec.serving_constants import load_fitted
    from moesim.workload.overlap import MICROBATCHES

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


def node_size(cluster) -> int:
    """Devices of one server: those that share a node."""
    return int(np.bincount(cluster.node).max())


def digest(data: Mapping[str, object]) -> str:
    """What an outcome depends on, as 20 hexadecimal digits: the data, the code, and every file that they name in turn
    (profiles and those they are like, models, traces)."""
    plain = {key: value for key, value in data.items() if key not in ("expected", "description")}
    return hashlib.sha256(f"{_inputs().content_hash(document_of(plain))}|{_readers()}".encode()).hexdigest()[:20]


@lru_cache(maxsize=1)
def _inputs() -> Inputs:
    return Inputs()


@lru_cache(maxsize=1)
def _readers() -> str:
    """Digest of how outcomes are read off what was simulated; how entries are read makes no difference to them."""
    here = Path(__file__)
    return hashlib.sha256(here.read_bytes() + here.with_name("training_outcome.py").read_bytes()).hexdigest()
