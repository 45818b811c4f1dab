"""Dense and MoE layers in turns: only the latter route, dispatch and combine; windows hold back attention."""

import pytest

from moesim.spec.assembly.step import assemble
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import parse
from moesim.workload.footprint import footprint, kv_bytes
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS

MODEL = """
title: Tiny, every second layer with experts
hidden: 64
vocab: 1000
layers: 4
attention: {kind: gqa, heads: 8, kv_heads: 4, head_dim: 16, window: 32}
full_attention_every: 4
moe_every: 2
experts: {routed: 16, top_k: 1, ffn: 32, shared_ffn: 32, score: sigmoid, normalise_top_k: false}
dense_ffn: 96
context: 4096
native: bf16
"""


@pytest.fixture
def assembly(tmp_path):
    (tmp_path / "m.yaml").write_text(MODEL)
    text = """
model: m.yaml
cluster: {hardware: h100, devices: 8}
parallelism: {attention_dp: 8, ep: 8}
precision: {experts: bf16, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}
workload: {kind: decode, sequences_per_rank: 16, context: 999}
routing: {kind: lognormal, sigma: 0.7}
placement: {kind: contiguous, slots_per_rank: 2}
overlap: {kind: none}
"""
    return assemble(parse(text, str(tmp_path / "a.yaml")))


def test_layers_take_turns(assembly):
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
    by_layer = [{op.kind for op in step.program.ops if op.layer == layer} for layer in range(4)]
    attention = {"norm", "projections", "attention"}
    assert by_layer[0] == by_layer[2] == attention | {"dense_ffn"}
    assert by_layer[1] == by_layer[3] == attention | {"router", "shared_expert", "dispatch", "experts", "combine"}
    assert [traffic.tokens.sum() for traffic in step.traffic[0]] == [8 * 16, 8 * 16]  # two MoE layers, top-1


def test_memory_counts_each_kind_of_layer(assembly):
    needs = footprint(assembly.deployment, assembly.batch, 0, reserve=0)
    assert needs.experts == 2 * 2 * (3 * 64 * 32) * 2  # slots, MoE layers
    assert needs.dense_ffn == 2 * (3 * 64 * 96) * 2
    assert kv_bytes(assembly.deployment, 1000) == 2 * 4 * 16 * 2 * (3 * 32 + 1000)  # three windows, one full layer


def test_maverick_alternates():
    model = load_model("llama-4-maverick")
    assert model.moe_layers == tuple(range(1, 48, 2))
    assert all((layer.dense_ffn > 0) == (layer.experts is None) for layer in model.layers)
    assert [layer.attention.window for layer in model.layers[:4]] == [8192, 8192, 8192, 0]
