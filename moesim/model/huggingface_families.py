"""What the fields of each Hugging Face architecture mean.

Field names are those of the released files and of the configuration classes of transformers 5.23.0, whose model classes
(Apache-2.0) are the source of every shape here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from moesim.model.architecture import Attention, Experts, MoEModel
from moesim.model.huggingface_config import Config
from moesim.model.stack import FeedForward, alternate, build_layers, moe_layers


def _model(
    config: Config,
    attentions: tuple[Attention, ...] | Attention,
    feed_forward: FeedForward,
    with_experts: tuple[int, ...] = (),
    tied: bool = False,
    context: str = "max_position_embeddings",
    **ends: object,
) -> MoEModel:
    """The model around its layers. tied: what the class takes when a file does not say; ends: fields of `MoEModel`."""
    if isinstance(attentions, Attention):
        attentions = (attentions,) * config.need("num_hidden_layers", "n_layers")
    return MoEModel(
        name="",
        title="",
        hidden=config.need("hidden_size", "d_model"),
        vocab=config.need("vocab_size"),
        layers=build_layers(attentions, feed_forward, with_experts),
        tied_embeddings=bool(config.get("tie_word_embeddings", tied)),
        context=config.need(context),
        **ends,
    )


def _gqa(config: Config, **features: object) -> Attention:
    heads = config.need("num_attention_heads")
    head_dim = config.count("head_dim", max(1, config.need("hidden_size") // heads))
    return Attention("gqa", heads, config.count("num_key_value_heads", heads), head_dim, **features)


def _biases(config: Config, default: bool = False) -> dict[str, bool]:
    bias = bool(config.get("attention_bias", default))
    return {"qkv_bias": bias, "output_bias": bias}


def _every_layer(config: Config) -> tuple[int, ...]:
    return tuple(range(config.need("num_hidden_layers")))


def _by_type(config: Config, full: Attention, other: Attention, full_every: int) -> tuple[Attention, ...]:
    """Attention of each layer by ``layer_types``, or by the interval that the class falls back on."""
    kinds = config.per_layer("layer_types")
    if not kinds:
        return alternate(config.need("num_hidden_layers"), full, other, full_every)
    return tuple(full if kind == "full_attention" else other for kind in kinds)


def _dense(config: Config, window: bool = False, **features: object) -> MoEModel:
    config.unsupported("mlp_bias")
    window_tokens = config.get("sliding_window", 0) if window else 0
    attention = _gqa(config, window=window_tokens, **(_biases(config) | features))
    return _model(config, attention, FeedForward(config.need("intermediate_size")))


def _mixtral(
    config: Config,
    attentions: tuple[Attention, ...] | Attention | None = None,
    ends: dict | None = None,
    **gating: object,
) -> MoEModel:
    """Every layer has experts of ``intermediate_size`` and no shared one. gating: further fields of `Experts`."""
    experts = Experts(
        config.need("num_local_experts", "num_experts"),
        config.need("num_experts_per_tok"),
        config.need("intermediate_size"),
        **gating,
    )
    attentions = attentions or _gqa(config, window=config.get("sliding_window", 0))
    return _model(config, attentions, FeedForward(experts=experts), _every_layer(config), **(ends or {}))


def _phimoe(config: Config) -> MoEModel:
    attention = _gqa(config, window=config.get("sliding_window", 0), **_biases(config))
    ends = {"norm": "layernorm", "head_bias": bool(config.get("lm_head_bias", False))}
    return _mixtral(config, attention, ends, score="sparsemixer")


def _olmoe(config: Config) -> MoEModel:
    attention = _gqa(config, qk_norm="full", **_biases(config))
    return _mixtral(config, attention, normalise_top_k=bool(config.get("norm_topk_prob", False)))


def _gpt_oss(config: Config) -> MoEModel:
    full = _gqa(config, sinks=True, **_biases(config, default=True))
    windowed = replace(full, window=config.need("sliding_window"))
    return _mixtral(config, _by_type(config, full, windowed, full_every=2), bias=True, router_bias=True, clamped=True)


def _minimax_m2(config: Config) -> MoEModel:
    ends = {"mtp_layers": config.get("num_mtp_modules", 0) if config.get("use_mtp", True) else 0}
    return _mixtral(config, _gqa(config, qk_norm="full"), ends, score="sigmoid", correction_bias=True)


def _minimax(config: Config) -> MoEModel:
    """MiniMax-M2 also names itself so; its forerunners, MiniMax-Text-01 and M1, have lightning attention."""
    kinds = set(config.get("attn_type_list", ())) | set(config.get("layer_types", ()))
    if not kinds <= {1, "full_attention"} or not kinds:
        config.wrong(
            "attn_type_list" if "attn_type_list" in config.data else "layer_types",
            "has lightning attention, which moesim does not know",
        )
    return _minimax_m2(config)


def _qwen_moe(config: Config, attentions: tuple[Attention, ...] | Attention, shared: bool, **gating) -> MoEModel:
    """Qwen's layers: experts in the last of every ``decoder_sparse_step`` layers, ``mlp_only_layers`` excepted."""
    experts = Experts(
        config.need("num_experts", "num_local_experts"),
        config.need("num_experts_per_tok"),
        config.need("moe_intermediate_size"),
        shared_ffn=config.need("shared_expert_intermediate_size") if shared else 0,
        shared_gate=shared,
        **gating,
    )
    layers = config.need("num_hidden_layers")
    sparse = moe_layers(layers, every=config.count("decoder_sparse_step", 1))
    sparse = tuple(index for index in sparse if index not in config.get("mlp_only_layers", ()))
    dense = config.need("intermediate_size") if len(sparse) < layers else 0
    return _model(config, attentions, FeedForward(dense, experts=experts), sparse)


def _qwen2_moe(config: Config) -> MoEModel:
    attention = _gqa(config, qkv_bias=bool(config.get("qkv_bias", True)))
    if config.get("use_sliding_window"):
        config.unsupported("use_sliding_window")
    return _qwen_moe(config, attention, shared=True, normalise_top_k=bool(config.get("norm_topk_prob", False)))


def _qwen3_moe(config: Config) -> MoEModel:
    window = config.get("sliding_window", 0) if config.get("use_sliding_window") else 0
    attention = _gqa(config, qk_norm="head", window=window, **_biases(config))
    return _qwen_moe(config, attention, shared=False, normalise_top_k=bool(config.get("norm_topk_prob", False)))


def _qwen3_next(config: Config) -> MoEModel:
    """Qwen3-Next and Qwen3.5: gated delta nets with full attention in every fourth layer."""
    full = _gqa(config, qk_norm="head", output_gate=True, **_biases(config))
    delta = Attention(
        "linear",
        heads=config.need("linear_num_value_heads"),
        kv_heads=config.need("linear_num_key_heads"),
        head_dim=config.need("linear_key_head_dim"),
        v_head_dim=config.need("linear_value_head_dim"),
        conv_kernel=config.need("linear_conv_kernel_dim"),
    )
    attentions = _by_type(config, full, delta, config.count("full_attention_interval", 4))
    return _qwen_moe(config, attentions, shared=True, normalise_top_k=bool(config.get("norm_topk_prob", True)))


def _mla(config: Config) -> Attention:
    config.unsupported("attention_bias")
    heads, nope, rope = (config.need(f) for f in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim"))
    return Attention(
        "mla",
        heads,
        heads,
        nope + rope,
        q_lora_rank=config.get("q_lora_rank", 0),
        kv_lora_rank=config.need("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=config.need("v_head_dim"),
    )


def _indexed_mla(config: Config) -> Attention:
    return replace(
        _mla(config),
        indexer_heads=config.need("index_n_heads"),
        indexer_head_dim=config.need("index_head_dim"),
        indexer_top_k=config.need("index_topk"),
    )


def _deepseek(config: Config, attention: Attention, biased: bool) -> MoEModel:
    """DeepSeek's layers: the first few dense, then fine-grained and shared experts. biased: V3's sigmoid router."""
    width = config.need("moe_intermediate_size")
    grouped = config.get("topk_method") not in ("greedy", "gready")  # the misspelling is in released files
    experts = Experts(
        config.need("n_routed_experts", "num_local_experts"),
        config.need("num_experts_per_tok"),
        width,
        shared_ffn=config.get("n_shared_experts", 0) * width,
        score="sigmoid" if biased else "softmax",
        groups=config.count("n_group", 1) if grouped else 1,
        kept_groups=config.count("topk_group", 1) if grouped else 1,
        normalise_top_k=bool(config.get("norm_topk_prob", biased)),
        routed_scaling=float(config.get("routed_scaling_factor", 1.0)),
        correction_bias=biased,
    )
    layers = config.need("num_hidden_layers")
    sparse = moe_layers(layers, first_dense=config.get("first_k_dense_replace", 0))
    if kinds := config.per_layer("mlp_layer_types"):
        sparse = tuple(index for index, kind in enumerate(kinds) if kind == "sparse")
    dense = config.need("intermediate_size") if len(sparse) < layers else 0
    mtp = config.get("num_nextn_predict_layers", config.get("num_mtp_layers", 0))
    return _model(config, attention, FeedForward(dense, experts=experts), sparse, mtp_layers=mtp)


def _glm4_moe(config: Config) -> MoEModel:
    qk_norm = "head" if config.get("use_qk_norm", False) else ""
    attention = _gqa(config, qkv_bias=bool(config.get("attention_bias", False)), qk_norm=qk_norm)
    return _deepseek(config, attention, biased=True)


def _llama4(config: Config) -> MoEModel:
    full = _gqa(config, **_biases(config))
    chunked = replace(full, window=config.get("attention_chunk_size", 0))
    attentions = _by_type(config, full, chunked, config.count("no_rope_layer_interval", 4))
    rotary = config.per_layer("no_rope_layers")  # 1 = rotary, which attends in chunks
    if rotary and "layer_types" not in config.data:
        attentions = tuple(chunked if flag else full for flag in rotary)
    width = config.need("intermediate_size")
    experts = Experts(
        config.need("num_local_experts", "num_experts"),
        config.need("num_experts_per_tok"),
        width,
        shared_ffn=width,
        score="sigmoid",
        normalise_top_k=False,
    )
    layers = config.need("num_hidden_layers")
    sparse = config.get("moe_layers", ()) or moe_layers(layers, every=config.count("interleave_moe_layer_step", 1))
    if any(index not in range(layers) for index in sparse):
        config.wrong("moe_layers", f"lists a layer that is not one of 0 to {layers - 1}")
    dense = config.need("intermediate_size_mlp") if len(sparse) < layers else 0
    return _model(config, attentions, FeedForward(dense, experts=experts), tuple(sparse))


def _dbrx(config: Config) -> MoEModel:
    attn, ffn = config.part("attn_config"), config.part("ffn_config")
    heads = config.need("n_heads")
    attention = Attention("gqa", heads, attn.need("kv_n_heads"), config.need("d_model") // heads)
    experts = Experts(ffn.need("moe_num_experts"), ffn.need("moe_top_k"), ffn.need("ffn_hidden_size"))
    every = tuple(range(config.need("n_layers")))
    ends = {"context": "max_seq_len", "norm": "layernorm_no_bias"}
    return _model(config, attention, FeedForward(experts=experts), every, **ends)


def _jetmoe(config: Config) -> MoEModel:
    kv_heads, experts, top_k = (
        config.need(f) for f in ("num_key_value_heads", "num_local_experts", "num_experts_per_tok")
    )
    attention = Attention(
        "moa",
        kv_heads * top_k,
        kv_heads,
        config.need("kv_channels"),
        output_bias=True,
        attention_experts=experts,
        attention_top_k=top_k,
    )
    return _mixtral(config, attention, {"tied": True}, output_bias=True)


# model_type -> its reader.
FAMILIES: dict[str, Callable[[Config], MoEModel]] = {
    "llama": _dense,
    "mistral": partial(_dense, window=True),
    "qwen2": partial(_dense, qkv_bias=True, output_bias=False),
    "qwen3": partial(_dense, qk_norm="head"),
    "mixtral": _mixtral,
    "phimoe": _phimoe,
    "olmoe": _olmoe,
    "gpt_oss": _gpt_oss,
    "minimax": _minimax,
    "minimax_m2": _minimax_m2,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "qwen3_next": _qwen3_next,
    "qwen3_5_moe_text": _qwen3_next,
    "deepseek": lambda config: _deepseek(config, _gqa(config, **_biases(config)), biased=False),
    "deepseek_v2": lambda config: _deepseek(config, _mla(config), biased=False),
    "deepseek_v3": lambda config: _deepseek(config, _mla(config), biased=True),
    "deepseek_v32": lambda config: _deepseek(config, _indexed_mla(config), biased=True),
    "glm_moe_dsa": lambda config: _deepseek(config, _indexed_mla(config), biased=True),
    "kimi_k2": lambda config: _deepseek(config, _mla(config), biased=True),
    "glm4_moe": _glm4_moe,
    "llama4_text": _llama4,
    "dbrx": _dbrx,
    "jetmoe": _jetmoe,
}
