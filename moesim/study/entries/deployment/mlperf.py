"""What an MLPerf Inference figure says by its name: the lengths of the data set, the latency limit, who ran it.

Limits: mlcommons/inference, loadgen/mlperf.conf and language/gpt-oss-120b/mlperf_gptoss.conf (tpot_latency of the
Server scenario; ``-interactive`` variants), which 99 % of requests have to keep (target_latency_percentile). Limits on
the time to the first token are not held: loads here are closed loops, which have no arrivals to wait for.
Mean output lengths: tools/submission/submission_checker/constants.py, and for gpt-oss compliance/TEST09. Mean prompts:
gpt-oss's performance set is 6,396 PubMed papers of some 8,000 tokens; the others are from memory of MLCommons'
announcements, unverified. The rules allow drafts in DeepSeek-R1 Interactive (language/deepseek-r1/README.md) without
asking for them, so only figures that say so have any. Submissions on NVIDIA's GPUs run NVIDIA's code for TensorRT-LLM
(mlcommons/inference_results_v*, closed/NVIDIA/code), unless a figure says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from moesim.hardware.device import Hardware
from moesim.study.entries.reading import words
from moesim.study.entries.reading.entry import Entry

PERCENTILE = "p99"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """input, output: mean tokens. tpot_s: limit by scenario."""

    input: int
    output: int
    tpot_s: MappingProxyType[str, float]


_BENCHMARKS = {
    "mixtral-8x7b": Benchmark(290, 145, MappingProxyType({"server": 0.2})),
    "deepseek-v3": Benchmark(800, 3886, MappingProxyType({"server": 0.08, "interactive": 0.015})),
    "gpt-oss-120b": Benchmark(8000, 1278, MappingProxyType({"server": 0.08, "interactive": 0.015})),
    "llama-3.1-405b": Benchmark(9400, 685, MappingProxyType({"server": 0.175, "interactive": 0.08})),
}


def is_mlperf(entry: Entry) -> bool:
    """Whether a figure is of MLPerf."""
    return "mlperf" in f"{entry.metric} {entry.source}".lower()


def stack(entry: Entry, hardware: Hardware) -> str:
    """The stack of a figure that names none; empty where it is not MLPerf's, or the chip not NVIDIA's."""
    return "trtllm" if is_mlperf(entry) and hardware.topology["kind"] == "nvlink" else ""


def benchmark(entry: Entry) -> Benchmark | None:
    """The benchmark that a figure is of; None where it is not one of MLPerf Inference with known data."""
    return _BENCHMARKS.get(words.model(entry.model) or "") if is_mlperf(entry) else None


def scenario(entry: Entry) -> str | None:
    """``server``, ``interactive`` or ``offline``, as the metric names it; None elsewhere. Interactive comes first, as
    it is a variant of Server."""
    named = entry.metric.lower() if is_mlperf(entry) else ""
    return next((name for name in ("interactive", "server", "offline") if name in named), None)


def limit(entry: Entry) -> float | None:
    """Seconds that a token of a user may take; None without a limit."""
    found = benchmark(entry)
    return found.tpot_s.get(scenario(entry) or "") if found else None
