"""The list of matrices is the model: its sums are parameters and FLOPs, and tensor parallelism divides it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.model import shapes
from moesim.model.architecture import Attention, Experts, Layer
from moesim.model.per_token import LAYER_LISTINGS
from moesim.spec.model.file import load_model

MLA = Attention(
    "mla",
    heads=128,
    kv_heads=128,
    head_dim=192,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)


def sizes(projections):
    return [(p.name, p.n, p.k, p.split) for p in projections]


def test_mla_of_deepseek_v3_on_one_of_eight_ranks():
    assert sizes(shapes.attention_projections(Layer(MLA), 7168, tp=8)) == [
        ("q_a", 1536, 7168, "none"),
        ("q_b", 16 * 192, 1536, "column"),
        ("kv_a", 576, 7168, "none"),
        ("kv_b", 16 * 256, 512, "column"),
        ("o", 7168, 16 * 128, "row"),
    ]


def test_absorbed_mla_has_two_batched_products_of_the_same_arithmetic():
    plain, absorbed = (shapes.attention_projections(Layer(MLA), 7168, tp=8, absorbed=a) for a in (False, True))
    assert sizes(absorbed)[3:5] == [("q_absorb", 512, 128, "batch"), ("v_up", 128, 512, "batch")]
    assert absorbed[3].used == 16
    assert sum(p.active_weights for p in plain) == sum(p.active_weights for p in absorbed)


def test_kv_heads_are_replicated_when_there_are_more_ranks():
    layer = Layer(Attention("gqa", heads=32, kv_heads=4, head_dim=128))
    assert [shapes.attention_projections(layer, 2048, tp)[0].n for tp in (1, 4, 8, 16)] == [5120, 1280, 768, 512]


def test_an_output_gate_widens_the_query():
    layer = Layer(Attention("gqa", heads=16, kv_heads=2, head_dim=256, output_gate=True))
    assert shapes.attention_projections(layer, 2048)[0].n == 2 * 16 * 256 + 2 * 2 * 256


def test_experts_split_inside_and_a_token_uses_top_k():
    layer = Layer(None, experts=Experts(routed=64, top_k=6, ffn=1408, shared_ffn=2816))
    up, down = shapes.routed_experts(layer, 2048, expert_tp=2)
    assert (up.n, up.k, up.used, up.stored, up.split) == (1408, 2048, 6, 64, "column")
    assert (down.n, down.k, down.split) == (2048, 704, "row")
    assert sizes(shapes.shared_expert(layer, 2048, tp=2)) == [
        ("shared_gate_up", 2816, 2048, "column"),
        ("shared_down", 2048, 1408, "row"),
    ]
    assert sizes(shapes.router(layer, 2048)) == [("router", 64, 2048, "none")]
    assert shapes.dense_ffn(layer, 2048) == ()
    assert shapes.attention_projections(layer, 2048) == ()


def test_the_vocabulary_is_padded():
    assert shapes.head(load_model("gpt-3-175b"), tp=8)[0].n == 6283  # 50257 / 8 rounded up


@pytest.mark.parametrize("tp", [3, 5, 256])
def test_degrees_that_do_not_divide_are_errors_naming_the_numbers(tp):
    with pytest.raises(ValueError, match=f"128 heads do not divide by tp {tp}"):
        shapes.attention_projections(Layer(MLA), 7168, tp)


def test_an_ffn_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="expert width 1408 does not divide by 3"):
        shapes.routed_experts(Layer(None, experts=Experts(8, 2, ffn=1408)), 2048, expert_tp=3)


@given(
    name=st.sampled_from(
        ["mixtral-8x7b", "deepseek-v3", "deepseek-v3.2", "qwen3-next-80b-a3b", "jetmoe-8b", "nllb-moe-54b"]
    ),
    tp=st.sampled_from([1, 2, 4, 8]),
)
def test_ranks_together_hold_split_matrices_once_and_the_others_tp_times(name, tp):
    model = load_model(name)
    for layer in dict.fromkeys(model.layers):
        for listing in LAYER_LISTINGS[:2] + LAYER_LISTINGS[3:]:
            try:
                whole, part = listing(layer, model.hidden), listing(layer, model.hidden, tp)
            except ValueError:
                continue
            replicated = layer.attention.kind == "gqa" and tp > layer.attention.kv_heads
            for one, many in zip(whole, part, strict=True):
                copies = 1 if many.split == "none" else tp
                if not (replicated and one.name == "qkv"):
                    assert many.weights * copies == one.weights
