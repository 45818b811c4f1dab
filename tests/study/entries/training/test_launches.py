"""What launch scripts state of a step: graphs, grouped products, overlap, dispatcher, recomputation."""

import pytest

from moesim.study.entries.training.launches import Launch, Recipe, launch_of

JUNE, APRIL, FEBRUARY, SEPTEMBER = 2026 + 5 / 12, 2026 + 3 / 12, 2026 + 1 / 12, 2025 + 8 / 12


def launch(model="qwen3-30b-a3b", hardware="gb200_nvl72", form="mxfp8", released=APRIL, stack="megatron", **more):
    return launch_of(Recipe(stack, model, hardware, form, released, **more))


@pytest.mark.parametrize(
    ("changes", "graphs"),
    [
        ({}, "partial"),
        ({"released": JUNE}, True),
        ({"released": JUNE, "form": "bf16"}, "partial"),
        ({"released": JUNE, "hardware": "b200"}, "partial"),
        ({"released": JUNE, "hardware": "h100", "form": "fp8"}, False),
        ({"released": JUNE, "model": "nemotron-3-nano", "hybrid": True}, "partial"),
        ({"released": JUNE, "model": "gpt-oss-120b", "hardware": "b300"}, "partial"),
        ({"released": JUNE, "model": "kimi-k2"}, True),
        ({"model": "deepseek-v3", "hardware": "gb300_nvl72"}, False),
        ({"model": "deepseek-v3", "hardware": "gb300_nvl72", "form": "bf16"}, "partial"),
        ({"released": JUNE, "model": "kimi-k2", "microbatch": 2}, False),
        ({"released": SEPTEMBER, "dropped": True}, True),
        ({"released": SEPTEMBER, "dropped": True, "hardware": "h100"}, False),
        ({"released": SEPTEMBER}, False),
        ({"released": None}, False),
        ({"stack": "maxtext", "hardware": "tpu_v5p", "form": "bf16"}, True),
        ({"stack": "deepseek", "hardware": "h800"}, False),
    ],
)
def test_graphs(changes, graphs):
    assert launch(**changes).graphs == graphs


def test_experts_are_fused_where_whole_steps_are_captured():
    assert launch().grouped_gemm == "per_expert"
    assert launch(released=JUNE).grouped_gemm == "fused_mlp"
    assert launch(stack="deepseek").grouped_gemm == launch(stack="maxtext").grouped_gemm == "fused"


def test_exchanges_hide_where_recipes_say_so():
    assert launch(released=JUNE).pairs
    assert not launch(released=JUNE, form="nvfp4").pairs
    assert not launch().pairs
    assert launch(model="deepseek-v3", hardware="b200", interleaved=True).pairs


def test_who_exchanges_tokens():
    assert launch(dropped=True).library
    assert launch(model="gpt-oss-120b", form="bf16").library
    assert not launch(model="gpt-oss-120b", hardware="b300", form="bf16", ep=8).library
    assert launch(hardware="b200", released=FEBRUARY).library
    assert not launch(hardware="b200").library
    assert not launch().library


def test_attention_is_fused_once_cudnn_can():
    early = {"model": "deepseek-v3", "form": "bf16", "released": 2025.25}
    assert launch(**early).unfused_attention
    assert not launch(**early | {"released": 2025.5}).unfused_attention
    assert not launch(**early | {"hardware": "h100"}).unfused_attention
    assert not launch(**early | {"model": "gpt-oss-120b"}).unfused_attention
    assert not launch(**early | {"released": None}).unfused_attention


def test_what_is_recomputed():
    assert launch().recomputation == {"kind": "none"}
    assert launch(model="deepseek-v3").recomputed == ("mla_up",)
    assert launch(model="deepseek-v3", released=JUNE).recomputed == ("mla_up",)
    assert launch(model="deepseek-v3", released=JUNE, hardware="gb300_nvl72").recomputed == ()
    assert launch(model="deepseek-v3", released=2025.25, form="bf16").recomputed == ("attention",)
    assert launch(model="deepseek-v3", hardware="gb300_nvl72", form="bf16").recomputed == ("activation",)
    assert launch(model="gpt-oss-120b", hardware="h100", form="bf16").recomputed == ("norm", "activation")
    assert Launch(recomputed=None).recomputation == launch(stack="maxtext").recomputation == {"kind": "full"}
