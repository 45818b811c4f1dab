"""Hugging Face configurations give the model that transformers builds from them, or an error that names the field."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.model.huggingface import from_hf_config, from_hf_dict
from moesim.model.parameters import parameters
from moesim.spec.model.file import load_model

SMALL = {"num_hidden_layers": 4, "vocab_size": 1000}
CASES = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {},
    "qwen3": {},
    "mixtral": {},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
    "olmoe": {},
    "gpt_oss": {},
    "minimax_m2": {},
    "qwen2_moe": {"decoder_sparse_step": 2},
    "qwen3_moe": {"mlp_only_layers": [1]},
    "qwen3_next": {},
    "qwen3_5_moe_text": {},
    "deepseek_v2": {"first_k_dense_replace": 1, "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3},
    "deepseek_v3": {"q_lora_rank": None},
    "deepseek_v32": {},
    "glm_moe_dsa": {},
    "glm4_moe": {"use_qk_norm": True, "attention_bias": True},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "jetmoe": {},
}


@pytest.mark.parametrize("family", CASES)
def test_parameters_are_those_of_the_class_on_the_meta_device(family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.CONFIG_MAPPING[family](**SMALL, **CASES[family])
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    biases = [buffer for name, buffer in built.named_buffers() if "e_score_correction_bias" in name]
    counted = sum(tensor.numel() for tensor in [*built.parameters(), *biases])
    assert parameters(from_hf_dict(json.loads(config.to_json_string()))).total == counted


MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
DBRX = {
    "model_type": "dbrx",
    "d_model": 6144,
    "n_heads": 48,
    "n_layers": 40,
    "max_seq_len": 32768,
    "vocab_size": 100352,
    "tie_word_embeddings": False,
    "attn_config": {"model_type": "", "kv_n_heads": 8, "clip_qkv": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}


@pytest.mark.parametrize(("name", "config"), [("mixtral-8x7b", MIXTRAL), ("deepseek-v3", DEEPSEEK_V3), ("dbrx", DBRX)])
def test_a_released_configuration_is_the_catalogue_s_model(name, config):
    ours, theirs = load_model(name), from_hf_dict(config, name=name)
    for field in ("layers", "hidden", "vocab", "context", "native", "mtp_layers", "tied_embeddings", "norm"):
        assert getattr(theirs, field) == getattr(ours, field), field


def test_a_multimodal_file_is_read_for_its_text_model():
    text = {key: value for key, value in MIXTRAL.items() if key != "torch_dtype"}
    model = from_hf_dict({"model_type": "some_vision_model", "text_config": text, "vision_config": {}})
    assert model.moe_layers == tuple(range(32))


def write(folder, **changes):
    path = folder / "tiny-moe" / "config.json"
    path.parent.mkdir()
    data = {key: value for key, value in (MIXTRAL | changes).items() if value != "drop"}
    path.write_text(json.dumps(data, indent=2))
    return path


def test_a_model_is_named_after_its_folder(tmp_path):
    path = write(tmp_path)
    assert from_hf_config(path).name == from_hf_config(path.parent).name == load_model(path).name == "tiny-moe"


def test_an_unknown_architecture_is_named_with_its_field_and_line(tmp_path):
    path = write(tmp_path, model_type="mamba9")
    with pytest.raises(InvalidInput, match=r"config\.json:2:3: model_type: 'mamba9' is not .* reads .*mixtral"):
        from_hf_config(path)


def test_everything_wrong_is_said_at_once(tmp_path):
    path = write(tmp_path, hidden_size="drop", num_local_experts="8", num_key_value_heads=0, tie_word_embeddings="no")
    with pytest.raises(InvalidInput) as caught:
        from_hf_config(path)
    fields = {problem.field for problem in caught.value.problems}
    assert {"hidden_size", "num_local_experts", "num_key_value_heads", "tie_word_embeddings"} <= fields
    assert all(problem.file == str(path) and problem.line for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "minimax", "attn_type_list": [0, 0, 1]}, "attn_type_list"),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention"], "sliding_window": 128}, "layer_types"),
    ],
)
def test_impossible_shapes_name_their_field(tmp_path, changes, field):
    with pytest.raises(InvalidInput) as caught:
        from_hf_config(write(tmp_path, **changes))
    assert field in {problem.field for problem in caught.value.problems}


@pytest.mark.parametrize("text", ["{", "[1]", "", "nonsense"])
def test_text_that_is_no_configuration_is_an_error_with_its_line(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"config\.json:1:"):
        from_hf_config(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        from_hf_config(tmp_path / "config.json")


NUMBERS = st.one_of(st.booleans(), st.integers(-5, 300), st.floats())
JUNK = st.one_of(st.none(), NUMBERS, st.text(max_size=4), st.sampled_from([[], [1, "a"], [0, 99], {}]))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), base=st.sampled_from([MIXTRAL, DEEPSEEK_V3, DBRX, MIXTRAL | {"model_type": "llama4_text"}]))
def test_a_spoilt_configuration_is_read_or_refused(data, base):
    optional = ["layer_types", "moe_layers", "no_rope_layers", "head_dim", "num_local_experts", "mlp_layer_types"]
    fields = data.draw(st.lists(st.sampled_from([*base, *optional]), min_size=1, max_size=3))
    spoilt = base | {field: data.draw(JUNK) for field in fields}
    try:
        model = from_hf_dict(spoilt)
    except InvalidInput:
        return
    assert parameters(model).total > 0
