"""Cache and arithmetic per token, by hand and against published figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InvalidInput
from moesim.model.architecture import Attention
from moesim.model.per_token import (
    attended_tokens,
    attention_flops,
    cached_elements,
    cached_tokens,
    forward_flops,
    kv_elements,
    kv_elements_per_token,
    matrix_flops,
    mean_attended_tokens,
    state_elements,
)
from moesim.spec.model.file import load_model

FULL = Attention("gqa", heads=8, kv_heads=2, head_dim=64)
WINDOWED = Attention("gqa", heads=8, kv_heads=2, head_dim=64, window=128)


def test_mla_caches_its_latent_whole_on_every_rank():
    attention = load_model("deepseek-v3").layers[0].attention
    assert cached_elements(attention) == cached_elements(attention, tp=8) == 512 + 64


def test_the_indexer_caches_its_keys_too():
    assert cached_elements(load_model("deepseek-v3.2").layers[0].attention) == 512 + 64 + 128


def test_kv_heads_divide_over_ranks_until_each_has_one():
    assert [cached_elements(FULL, tp) for tp in (1, 2, 4)] == [256, 128, 128]


def test_windows_hold_the_cache_back():
    assert [cached_tokens(a, 1000) for a in (FULL, WINDOWED)] == [1000, 128]
    model = load_model("gpt-oss-20b")  # 12 layers of 128 tokens, 12 full
    assert kv_elements(model, 4096) == 12 * 1024 * (128 + 4096)
    assert kv_elements(model, 64) == 64 * kv_elements_per_token(model)


def test_linear_attention_keeps_a_state_instead_of_a_cache():
    model = load_model("qwen3-next-80b-a3b")
    delta = model.layers[0].attention
    state = 32 * 128 * 128 + 3 * (2 * 2048 + 4096)
    assert (cached_elements(delta), state_elements(delta), state_elements(FULL)) == (0, state, 0)
    assert kv_elements(model, 1000) == 12 * 1000 * 1024 + 36 * state


def test_only_the_decoder_caches():
    assert kv_elements_per_token(load_model("switch-base-128")) == 12 * 2 * 768
    assert kv_elements_per_token(load_model("vmoe-l16")) == 0


@given(length=st.integers(1, 600), window=st.integers(1, 300))
def test_the_mean_of_attended_tokens_is_the_mean(length, window):
    attention = Attention("gqa", 1, 1, 1, window=window)
    seen = [attended_tokens(attention, context) for context in range(1, length + 1)]
    assert mean_attended_tokens(attention, length) == pytest.approx(sum(seen) / length)


def test_attention_flops_by_hand():
    assert attention_flops(FULL, attended=10, context=10) == 4 * 8 * 64 * 10
    mla = load_model("deepseek-v3").layers[0].attention
    assert attention_flops(mla, 10, 10) == 2 * 128 * (128 + 64 + 128) * 10
    assert attention_flops(mla, 10, 10, absorbed=True) == 2 * 128 * (512 + 64 + 512) * 10
    sparse = load_model("deepseek-v3.2").layers[0].attention
    assert attended_tokens(sparse, 10_000) == 2048
    assert attention_flops(sparse, 2048, 10_000) == attention_flops(mla, 2048, 2048) + 2 * 64 * 128 * 10_000


@pytest.mark.parametrize(("name", "gflop"), [("deepseek-v3", 250), ("llama-3.1-405b", 2448)])
def test_training_flops_agree_with_the_published_within_two_percent(name, gflop):
    """Zhao et al. 2025, Insights into DeepSeek-V3: GFLOP per token in training on sequences of 4096 tokens."""
    assert 3 * forward_flops(load_model(name), 4096) / 1e9 == pytest.approx(gflop, rel=0.02)


@pytest.mark.parametrize(("name", "kilobytes"), [("deepseek-v3", 70), ("llama-3.1-405b", 516)])
def test_kv_bytes_agree_with_the_published_within_one_percent(name, kilobytes):
    """The same paper: KV cache per token in BF16."""
    assert 2 * kv_elements_per_token(load_model(name)) / 1e3 == pytest.approx(kilobytes, rel=0.01)


def test_matrix_flops_are_twice_the_active_matrices():
    model = load_model("llama-2-13b")
    vectors = (2 * 40 + 1) * 5120
    assert matrix_flops(model) == 2 * (13_015_864_320 - 32000 * 5120 - vectors)


def test_a_vision_head_runs_once_an_image():
    model = load_model("vmoe-l16")
    per_image = matrix_flops(model) * 197
    assert per_image / 1e9 == pytest.approx(2 * 197 * 403.4e-3, rel=0.02)  # active parameters without ends


def test_a_rumour_cannot_be_simulated():
    with pytest.raises(InvalidInput, match="neither its layer shapes"):
        forward_flops(load_model("gpt-4-rumoured"), 4096)
