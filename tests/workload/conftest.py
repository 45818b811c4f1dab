import numpy as np
import pytest

from moesim.routing.trace import RouterTrace, write_trace
from moesim.spec.assembly.step import assemble
from moesim.spec.reading.loading import parse

MODEL = """
title: Tiny
hidden: 64
vocab: 1000
layers: 4
first_dense: 1
context: 4096
native: bf16
attention: {kind: gqa, heads: 8, kv_heads: 4, head_dim: 16}
dense_ffn: 256
experts: {routed: 16, top_k: 2, ffn: 32, shared_ffn: 32, score: softmax}
"""

SCENARIO = """
model: tiny.yaml
cluster: {{hardware: h100, devices: {devices}}}
parallelism:
  {{attention_dp: {dp}, tp: {tp}, cp: {cp}, pp: {pp}, ep: {ep}, expert_tp: {expert_tp}, instances: {instances}{more}}}
{stages}
precision: {precision}
workload: {workload}
routing: {{kind: trace, trace: tiny.safetensors}}
placement: {{kind: {placement}, slots_per_rank: {slots}}}
overlap: {{kind: shared_expert}}
network: {{all_to_all: {kernel}}}
"""


def write_tiny(folder, model, tokens, layers):
    """Write a model with 16 experts top-2 and a trace of it: sequences of 64 tokens that like some experts better."""
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((tokens, layers, 16)) - np.linspace(0, 0.5, 16), axis=2)[:, :, :2].astype(np.uint8)
    offsets = np.arange(0, tokens + 1, 64)
    trace = RouterTrace(name="tiny", ids=ids, offsets=offsets, experts=16, source="a test", synthetic=True)
    write_trace(folder / "tiny.safetensors", trace)
    (folder / "tiny.yaml").write_text(model)


@pytest.fixture
def tiny():
    return write_tiny


@pytest.fixture
def scenario(tmp_path):
    """Assemble a scenario of a tiny model (3 MoE layers, 16 experts top-2) on H100s."""
    return builder(tmp_path)


@pytest.fixture(scope="module")
def shared_scenario(tmp_path_factory):
    """As `scenario`, with one folder for all examples of a property."""
    return builder(tmp_path_factory.mktemp("scenario"))


def builder(tmp_path):
    """Write the tiny model and its trace to a folder; hand on what assembles scenarios there."""
    write_tiny(tmp_path, MODEL, tokens=2048, layers=3)

    def build(
        devices=8, dp=8, tp=1, ep=8, expert_tp=1, slots=2, placement="contiguous", kernel="nccl",
        instances=1, cp=1, pp=1, more="", stages=None,
        precision="{experts: bf16, dense: bf16, dispatch: fp8, combine: bf16, kv: bf16}",
        workload="{kind: decode, sequences_per_rank: 16, context: 100}",
    ):  # fmt: skip
        text = SCENARIO.format(
            devices=devices, dp=dp, tp=tp, ep=ep, expert_tp=expert_tp, slots=slots, placement=placement,
            kernel=kernel, instances=instances, workload=workload, cp=cp, pp=pp,
            more=more and f", {more}", stages=f"stages: {stages}" if stages else "", precision=precision,
        )  # fmt: skip
        return assemble(parse(text, str(tmp_path / "a.yaml")))

    return build
