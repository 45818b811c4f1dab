"""Encoders and the decoders that attend to them: what runs, by hand, and what is held beside."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.spec.assembly.step import assemble
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import parse
from moesim.workload.encoding import cross_attention_work, halves, with_held
from moesim.workload.footprint import footprint
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS

MODEL = """
title: Tiny translator
stack: encoder_decoder
encoder_layers: 4
decoder_layers: 2
hidden: 64
vocab: 1000
tied_embeddings: true
attention: {kind: gqa, heads: 8, kv_heads: 8, head_dim: 8}
moe_every: 2
experts: {routed: 16, top_k: 2, ffn: 32, gated: false}
dense_ffn: 128
dense_gated: false
context: 512
native: bf16
"""
IMAGES = """
title: Tiny eyes
stack: encoder
layers: 2
hidden: 64
patch: 4
classes: 10
context: 17
attention: {kind: gqa, heads: 8, kv_heads: 8, head_dim: 8}
moe_every: 2
experts: {routed: 16, top_k: 2, ffn: 32, gated: false}
dense_ffn: 128
dense_gated: false
native: bf16
"""


@pytest.fixture
def built(tmp_path):
    def build(workload, model=MODEL, degrees="{attention_dp: 8, ep: 8}"):
        (tmp_path / "m.yaml").write_text(model)
        text = (
            f"model: m.yaml\ncluster: {{hardware: h100, devices: 8}}\nparallelism: {degrees}\n"
            "precision: {experts: bf16, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}\n"
            f"workload: {workload}\nrouting: {{kind: lognormal, sigma: 0.5}}\n"
            "placement: {kind: contiguous, slots_per_rank: 2}\noverlap: {kind: none}\n"
        )
        return assemble(parse(text, str(tmp_path / "a.yaml")))

    return build


def kinds(assembly):
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
    return [(op.layer, op.kind) for op in step.program.ops], step


def test_halves_are_the_whole():
    model = load_model("nllb-moe-54b")
    encoder, decoder = halves(model)
    assert encoder.layers + decoder.layers == model.layers
    assert not any(layer.cross_attention for layer in encoder.layers)
    assert all(layer.cross_attention for layer in decoder.layers)


def test_an_encoder_runs_its_layers_and_makes_what_decoders_attend_to(built):
    assembly = built("{kind: encode, sequences_per_rank: 4, source: 32}")
    ops, step = kinds(assembly)
    assert {layer for layer, _ in ops} == {-1, 0, 1, 2, 3}
    assert "cross_attention" not in {kind for _, kind in ops}
    assert assembly.batch.tokens.tolist() == [4 * 32] * 8
    assert step.traffic[0][0].tokens.sum() == 8 * 4 * 32 * 2
    without = inference_step(replace(assembly.deployment, held=None), assembly.batch, assembly.routes, OVERLAPS["none"])
    assert step.work["head"].seconds > without.work["head"].seconds  # keys and values of two decoder layers


def test_a_decoder_attends_to_its_source_in_every_layer(built):
    short, long = (
        built(f"{{kind: decode, sequences_per_rank: 64, context: 10, source: {source}}}") for source in (10, 400)
    )
    ops, step = kinds(short)
    one = ["norm", "projections", "attention", "projections", "norm", "projections", "cross_attention", "projections"]
    assert [kind for layer, kind in ops if layer == 0] == [*one, "dense_ffn"]
    assert step.work["cross_attention"].seconds < kinds(long)[1].work["cross_attention"].seconds
    assert step.work["attention"].seconds == kinds(long)[1].work["attention"].seconds


def test_a_prompt_sees_the_whole_source_once(built):
    assembly = built("{kind: prefill, sequences_per_rank: 64, prompt: 100, source: 300}")
    layer = assembly.deployment.model.layers[0]
    kernel = cross_attention_work(assembly.deployment, layer, assembly.batch, np.array([64]))[2]
    assert kernel.kind == "cross_attention"
    half = replace(assembly.batch, source=150)
    assert kernel.seconds > cross_attention_work(assembly.deployment, layer, half, np.array([64]))[2].seconds


def test_tokens_that_see_all_cost_twice_the_scores(built):
    image = built("{kind: encode, sequences_per_rank: 512}", IMAGES)
    causal = replace(image.batch, causal=True)
    both = [
        inference_step(image.deployment, batch, image.routes, OVERLAPS["none"]).work["attention"].seconds
        for batch in (image.batch, causal)
    ]
    assert both[1] < both[0] < 2 * both[1]  # a launch is paid once


def test_an_image_is_its_patches_and_a_class_token(built):
    assembly = built("{kind: encode, sequences_per_rank: 4}", IMAGES)
    assert assembly.batch.new_tokens == 17
    needs = with_held(footprint(assembly.deployment, assembly.batch, 0, reserve=0), assembly.deployment, assembly.batch)
    assert needs.kv_cache == 0


def test_both_halves_and_the_cross_cache_are_in_hbm(built):
    assembly = built("{kind: decode, sequences_per_rank: 4, context: 9, source: 32}")
    needs = footprint(assembly.deployment, assembly.batch, 0, reserve=0)
    whole = with_held(needs, assembly.deployment, assembly.batch)
    expert, attention, dense = 2 * 64 * 32, 4 * 64 * 64, 2 * 64 * 128
    assert whole.experts == 2 * 3 * expert * 2  # two slots a rank, one MoE layer of the decoder, two of the encoder
    router, vocabulary, cross = 64 * 16, 1000 * 64, attention
    expected = 6 * attention + 2 * cross + 3 * dense + 3 * router + vocabulary
    assert whole.dense_weights == 2 * expected
    token = 2 * 8 * 8 * 2
    assert whole.kv_cache == 4 * 2 * (10 * token + 32 * token)  # own and cross, two layers
    encode = built("{kind: encode, sequences_per_rank: 4, source: 32}")
    alike = with_held(footprint(encode.deployment, encode.batch, 0, reserve=0), encode.deployment, encode.batch)
    assert (alike.experts, alike.dense_weights) == (whole.experts, whole.dense_weights)
    assert alike.kv_cache == 4 * 2 * 32 * token


def test_tensor_parallel_cross_attention_adds_its_parts_up(built):
    assembly = built("{kind: decode, sequences_per_rank: 4, context: 9, source: 32}", degrees="{tp: 8, ep: 8}")
    ops, _ = kinds(assembly)
    first = [kind for layer, kind in ops if layer == 0]
    assert first.count("all_reduce") == 3  # self-attention, cross-attention, dense FFN
