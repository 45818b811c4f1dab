"""Totals equal those of the released checkpoints; active parameters, weight bytes and dense twins follow from them."""

import pytest

from moesim.model.architecture import Attention, Experts, Layer, MoEModel
from moesim.model.parameters import (
    KINDS,
    Parameters,
    active_parameters,
    dense_twin,
    layer_parameters,
    mtp_parameters,
    parameters,
    weight_bytes,
)
from moesim.model.per_token import kv_elements_per_token
from moesim.spec.model.file import load_model

# (model, all parameters, those a token uses, KV elements per token). Counted on the meta device with the classes of
# transformers 5.23.0 for all but dbrx, arctic, grok-1, deepseek-moe-16b and the papers' models (Switch, GLaM, GShard,
# V-MoE), which were summed from their published shapes by an independent script. 0: not counted there.
COUNTED = [
    ("mixtral-8x7b", 46_702_792_704, 12_879_925_248, 65536),
    ("mixtral-8x22b", 140_620_634_112, 39_152_031_744, 114688),
    ("deepseek-moe-16b", 16_375_728_128, 2_828_650_496, 114688),
    ("deepseek-v2-lite", 15_706_484_224, 2_661_150_208, 15552),
    ("deepseek-v2", 235_741_434_880, 21_375_800_320, 34560),
    ("deepseek-v3", 671_026_419_200, 37_552_297_472, 35136),
    ("deepseek-v3.2", 671_877_944_064, 38_403_822_336, 42944),
    ("kimi-k2", 1_026_408_232_448, 32_861_500_928, 35136),
    ("qwen2-57b-a14b", 57_408_658_944, 14_249_270_784, 28672),
    ("qwen3-30b-a3b", 30_532_122_624, 3_353_032_704, 49152),
    ("qwen3-235b-a22b", 235_093_634_560, 22_190_763_520, 96256),
    ("qwen3-next-80b-a3b", 79_674_391_296, 3_874_929_408, 12288),
    ("qwen3.5-397b-a17b", 396_346_350_336, 17_349_040_896, 15360),
    ("llama-4-scout", 107_769_861_120, 17_172_894_720, 98304),
    ("llama-4-maverick", 400_711_848_960, 17_184_691_200, 98304),
    ("dbrx", 131_596_523_520, 36_469_708_800, 81920),
    ("grok-1", 315_684_820_992, 83_756_587_008, 131072),
    ("gpt-oss-20b", 20_914_757_184, 4_187_440_704, 24576),
    ("gpt-oss-120b", 116_829_156_672, 5_711_982_912, 36864),
    ("glm-4.5", 352_797_829_024, 33_632_266_144, 188416),
    ("glm-5", 743_911_218_432, 41_784_728_832, 54912),
    ("minimax-m2.5", 228_689_764_864, 11_030_553_088, 126976),
    ("olmoe-1b-7b", 6_919_161_856, 1_282_017_280, 65536),
    ("phi-3.5-moe", 41_873_153_344, 6_640_999_744, 65536),
    ("arctic", 478_584_608_768, 17_318_647_808, 71680),
    ("jetmoe-8b", 8_522_237_952, 2_331_445_248, 98304),
    ("switch-base-128", 7_415_216_640, 224_082_432, 0),
    ("switch-base-256", 14_664_153_600, 225_262_080, 0),
    ("switch-c-2048", 1_571_308_970_400, 1_728_324_000, 0),
    ("glam-64e", 1_161_756_155_904, 96_604_266_496, 2097152),
    ("gshard-600b", 619_333_644_288, 1_462_333_440, 0),
    ("nllb-moe-54b", 54_500_569_088, 3_750_785_024, 0),
    ("vmoe-l16", 3_448_550_739, 426_808_659, 0),
    ("vmoe-h14-last5", 2_691_558_483, 724_518_483, 0),
]


@pytest.mark.parametrize(("name", "total", "active", "kv"), COUNTED)
def test_totals_are_those_of_the_checkpoints_to_the_parameter(name, total, active, kv):
    model = load_model(name)
    assert parameters(model).total == total
    assert active_parameters(model).total == active
    if kv:
        assert kv_elements_per_token(model) == kv


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
    ],
)
def test_dense_models_have_the_parameters_that_the_hub_counts(name, total):
    model = load_model(name)
    assert parameters(model).total == active_parameters(model).total == total


@pytest.mark.parametrize(
    ("name", "one_module"), [("deepseek-v3", 11_610_068_224), ("glm-5", 9_952_920_576), ("minimax-m2.5", 3_687_602_432)]
)
def test_prediction_modules_are_counted_apart(name, one_module):
    model = load_model(name)
    assert mtp_parameters(model) == model.mtp_layers * one_module
    assert mtp_parameters(load_model("mixtral-8x7b")) == 0


def toy(**layer) -> MoEModel:
    attention = Attention("gqa", heads=4, kv_heads=2, head_dim=8)
    return MoEModel("toy", "Toy", hidden=32, vocab=100, layers=(Layer(attention, **layer),))


def test_a_toy_is_counted_by_kind():
    counts = parameters(toy(experts=Experts(routed=8, top_k=2, ffn=16, shared_ffn=24, shared_gate=True)))
    assert counts == Parameters(
        embedding=3200,
        head=3200,
        norms=3 * 32,
        attention=32 * (32 + 2 * 16) + 32 * 32,
        router=8 * 32,
        routed_experts=8 * 3 * 16 * 32,
        shared_experts=3 * 24 * 32 + 32,
    )
    assert counts.total == sum(getattr(counts, kind) for kind in KINDS)
    assert counts.without_input_embedding == counts.total - 3200
    assert counts.without_embeddings == counts.total - 6400


def test_only_routed_experts_differ_between_all_and_active():
    model = toy(experts=Experts(routed=8, top_k=2, ffn=16))
    total, active = (layer_parameters(model.layers[0], model, active=a) for a in (False, True))
    assert total.routed_experts == 4 * active.routed_experts
    assert total.total - total.routed_experts == active.total - active.routed_experts


def test_weight_bytes_need_a_format_for_every_kind_present():
    model = toy(dense_ffn=16)
    sizes = dict.fromkeys(("embedding", "head", "norms", "attention"), 2.0)
    with pytest.raises(ValueError, match="lacks dense_ffn"):
        weight_bytes(model, sizes)
    counted = weight_bytes(model, sizes | {"dense_ffn": 0.5})
    assert counted["dense_ffn"] == 3 * 16 * 32 / 2
    assert "routed_experts" not in counted


@pytest.mark.parametrize(
    "name", ["mixtral-8x7b", "deepseek-v3", "arctic", "llama-4-maverick", "switch-base-128", "glam-64e"]
)
def test_a_dense_twin_has_the_active_parameters(name):
    model = load_model(name)
    twin = dense_twin(model)
    assert not twin.moe_layers
    assert len(twin.layers) == len(model.layers)
    difference = active_parameters(model).total - parameters(twin).total
    assert 0 <= difference <= active_parameters(model).router + 0.001 * active_parameters(model).total


def test_a_rumour_has_totals_only():
    rumour = load_model("gpt-4-rumoured")
    assert parameters(rumour).total == 1_831_000_000_000
    assert active_parameters(rumour).total == 277_000_000_000
