"""Outcomes of inference: what a stack adds to the kernels of a decode step, and seconds by kind, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from moesim.serving.stack import StackSteps, kernel_counts
from moesim.spec.assembly.step import assemble
from moesim.spec.serving.constants import load_fitted
from moesim.study.entries.runs.documents import document_of
from moesim.study.entries.runs.inference_outcome import _by_kind, stack_seconds
from moesim.workload.deployment import Batch

STEP = {
    "model": "qwen3-30b-a3b", "cluster": {"hardware": "h100", "devices": 2},
    "parallelism": {"attention_dp": 2, "tp": 1, "ep": 2, "expert_tp": 1},
    "precision": {"experts": "bf16", "dense": "bf16", "dispatch": "bf16", "combine": "bf16", "kv": "bf16"},
    "routing": {"kind": "balanced"}, "placement": {"kind": "contiguous", "slots_per_rank": 64},
    "overlap": {"kind": "none"}, "software": "vllm",
    "workload": {"kind": "decode", "sequences_per_rank": 8, "context": 100},
}  # fmt: skip


def test_small_kernels_run_once_a_micro_batch_and_hide_behind_exchanges():
    deployment = assemble(document_of(STEP)).deployment
    constants, counts = load_fitted().stacks["vllm"], kernel_counts(deployment)
    batch = Batch("decode", np.array([8, 6]), 1, 100)
    fixed = constants.fixed + 8 * constants.sequence  # the fullest rank's
    small = 48 * counts.unpriced * constants.kernel
    assert stack_seconds(deployment, batch, "none", 0.0) == pytest.approx(fixed + small)
    assert stack_seconds(deployment, batch, "shared_expert", 1.0) == pytest.approx(fixed + small)  # in a row
    assert stack_seconds(deployment, batch, "two_batch", 0.0) == pytest.approx(fixed + 2 * small)
    assert stack_seconds(deployment, batch, "two_batch", small / 2) == pytest.approx(fixed + 1.5 * small)
    assert stack_seconds(deployment, batch, "two_batch", 3 * small) == pytest.approx(fixed)


class Price(StackSteps):
    """A pool's price: all of a journal's seconds are of one kind."""

    def __init__(self, kind):
        self._kind = kind

    def by_kind(self, rows):
        return {self._kind: float(rows["seconds"].sum())}


def test_each_pool_is_priced_by_its_own_costs():
    def journal(seconds):
        return SimpleNamespace(table=lambda: {"seconds": np.array([seconds])})

    result = SimpleNamespace(
        assembly=SimpleNamespace(scenario=SimpleNamespace(prefill=SimpleNamespace(servers=2))),
        run=SimpleNamespace(journals=[journal(1.0), journal(3.0), journal(4.0)]),
        costs=(Price("prompts"), Price("dense")),
    )
    assert _by_kind(result) == pytest.approx({"prompts": 4 / 3, "dense": 4 / 3})
