"""Hooks on small random models of the transformers library."""

import json

import numpy as np
import pytest
import torch
import transformers

from moesim.errors import InvalidInput
from moesim.lab.transformers_capture import capture_transformers, find_routers
from moesim.routing.trace import decode_gates, open_trace

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "mixtral": SMALL | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": SMALL
    | {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 16, "mlp_only_layers": []},
    "olmoe": SMALL | {"num_experts": 16, "num_experts_per_tok": 4},
    "gpt_oss": SMALL | {"num_local_experts": 8, "num_experts_per_tok": 4, "layer_types": ["full_attention"] * 2},
    "deepseek_v3": SMALL
    | {
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "head_dim": 8,  # transformers takes the rotary width from here
        "v_head_dim": 16,
    },
}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "fable.txt"
    path.write_text(
        "The hare laughed at the tortoise's feet, but the tortoise declared that she would beat the hare. " * 3
    )
    return path


def write_config(tmp_path, name, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": name} | CONFIGS.get(name, SMALL) | changes))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_the_trace_holds_what_the_routers_chose(name, tmp_path, text):
    config = write_config(tmp_path, name)
    trace = open_trace(capture_transformers(config, text, tmp_path / "t.safetensors", length=32, batch=2))
    layers = 1 if name == "deepseek_v3" else 2
    assert trace.ids.shape == (288, layers, CONFIGS[name]["num_experts_per_tok"])
    assert trace.groups == CONFIGS[name].get("n_group", 1)
    assert trace.labels == ("fable",) * 9
    assert trace.metadata["weights"] == "random"
    np.testing.assert_allclose(decode_gates(trace.gates).sum(-1), 1, atol=0.02)

    # The same weights once more, without hooks: the last layer's router applied to its own recorded input.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = transformers.AutoConfig.from_pretrained(config)
        model = transformers.AutoModelForCausalLM.from_config(built).eval()
    router = find_routers(model)[-1]
    seen = []
    router.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].reshape(-1, SMALL["hidden_size"])))
    rows = torch.tensor(list(text.read_bytes()[:64])).view(2, 32)
    with torch.inference_mode():
        model(input_ids=rows)
        logits = torch.nn.functional.linear(seen[0], router.weight, getattr(router, "bias", None))
    if name == "deepseek_v3":
        best = logits.sigmoid().view(64, 4, 4).topk(2).values.sum(-1).topk(2).indices
        logits = torch.stack([logits.view(64, 4, 4)[i, best[i].sort().values].flatten() for i in range(64)])
        ids = torch.stack([(best[i].sort().values[:, None] * 4 + torch.arange(4)).flatten() for i in range(64)])
        expected = ids.gather(1, logits.topk(4).indices)
    else:
        expected = logits.topk(CONFIGS[name]["num_experts_per_tok"]).indices
    np.testing.assert_array_equal(np.sort(trace.ids[:64, -1]), np.sort(expected.numpy()))


def test_a_model_without_routers_is_refused(tmp_path, text):
    with pytest.raises(InvalidInput, match="has no router modules"):
        capture_transformers(write_config(tmp_path, "llama"), text, tmp_path / "t.safetensors")
    assert not (tmp_path / "t.safetensors").exists()


def test_llama4_scores_are_read_as_choices(tmp_path, text):
    sizes = SMALL | {
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 32,
        "moe_layers": [0, 1],
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama4_text", "pad_token_id": 0} | sizes))
    trace = open_trace(capture_transformers(config, text, tmp_path / "t.safetensors", length=32))
    assert trace.ids.shape == (288, 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 100}, "cannot take bytes"),
        ({"model_type": "no_such_model"}, "transformers cannot build"),
        ({"hidden_size": 8192, "intermediate_size": 10**9}, "the weights take 1.57 PB, this machine has"),
    ],
)
def test_bad_configurations_are_explained(change, message, tmp_path, text):
    with pytest.raises(InvalidInput, match=message):
        capture_transformers(write_config(tmp_path, "mixtral", **change), text, tmp_path / "t.safetensors", length=32)


def test_bad_files_are_explained(tmp_path, text):
    config = write_config(tmp_path, "mixtral")
    with pytest.raises(InvalidInput, match="cannot be read"):
        capture_transformers(config, tmp_path / "absent.txt", tmp_path / "t.safetensors")
    with pytest.raises(InvalidInput, match="one sequence takes 512"):
        capture_transformers(config, text, tmp_path / "t.safetensors")
    with pytest.raises(InvalidInput, match="no such file"):
        capture_transformers(tmp_path / "absent", text, tmp_path / "t.safetensors")


def test_vocabulary_ids_are_recorded_only_where_asked_for(tmp_path, text):
    config = write_config(tmp_path, next(iter(CONFIGS)))
    plain = open_trace(capture_transformers(config, text, tmp_path / "a.safetensors", length=32))
    trace = open_trace(capture_transformers(config, text, tmp_path / "b.safetensors", length=32, token_ids=True))
    assert plain.token_ids is None
    assert trace.token_ids.tolist() == list(text.read_bytes()[: trace.tokens])
