"""The matrix products of a layer, one by one, as one rank of a tensor-parallel group runs them.

Every product is ``y[tokens, n] = x[tokens, k] · W[k, n]``. Parameter counts and FLOPs are sums over these lists, so a
matrix is described here and nowhere else. Projections that engines fuse (q, k and v; gate and up) are one product.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.model.architecture import Attention, Experts, Layer, MoEModel


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight matrix, or `stored` of them of which a token uses `used`, as one rank holds them.

    n, k: output and input width on this rank. split: what tensor parallelism divided to get there: ``column`` (n; no
    communication), ``row`` (k; partial sums need an all-reduce), ``batch`` (whole matrices) or ``none`` (replicated).
    """

    name: str
    n: int
    k: int
    split: str
    used: int = 1
    stored: int = 1

    @property
    def weights(self) -> int:
        """Elements that this rank stores."""
        return self.n * self.k * self.stored

    @property
    def active_weights(self) -> int:
        """Elements that one token multiplies with; twice that is its FLOPs."""
        return self.n * self.k * self.used


def attention_projections(layer: Layer, hidden: int, tp: int = 1, absorbed: bool = False) -> tuple[Projection, ...]:
    """Products of a layer's self-attention on one of tp ranks, in the order in which they run.

    absorbed: decode with MLA on the latent cache. `kv_b` is then never applied to the cache; its key half multiplies
    the query (``q_absorb``, one [nope, kv_lora_rank] product a head) and its value half the result (``v_up``), see
    DeepSeek-V2, section 2.1. Same FLOPs per token, another shape. Other kinds ignore it.
    Raises ValueError when tp does not divide the heads.
    """
    if layer.attention is None:
        return ()
    return _BY_KIND[layer.attention.kind](layer.attention, hidden, tp, absorbed)


def cross_attention_projections(layer: Layer, hidden: int, tp: int = 1) -> tuple[Projection, ...]:
    """Products of a decoder's cross-attention: ``cross_kv`` runs once a source token, the others a target token."""
    if layer.cross_attention is None:
        return ()
    attention = layer.cross_attention
    width, kv_width = _gqa_widths(attention, tp)
    return (
        Projection("cross_q", width, hidden, "column"),
        Projection("cross_kv", 2 * kv_width, hidden, "column"),
        Projection("cross_o", hidden, width, "row"),
    )


def router(layer: Layer, hidden: int) -> tuple[Projection, ...]:
    """The router's product, whole on every rank."""
    return () if layer.experts is None else (Projection("router", layer.experts.routed, hidden, "none"),)


def routed_experts(layer: Layer, hidden: int, expert_tp: int = 1) -> tuple[Projection, ...]:
    """Products of the routed experts: all of them stored, top-k used by a token. expert_tp splits the inner width."""
    if layer.experts is None:
        return ()
    experts = layer.experts
    width = expert_width(experts, hidden)
    return _ffn("expert", width, experts.ffn, experts.gated, expert_tp, used=experts.top_k, stored=experts.routed)


def expert_width(experts: Experts, hidden: int) -> int:
    """Width of tokens in front of and behind the routed experts, and on the wire to and from them."""
    return experts.latent or hidden


def shared_expert(layer: Layer, hidden: int, tp: int = 1) -> tuple[Projection, ...]:
    """Products of the shared experts taken together, and those into and out of a latent space: every token's."""
    if layer.experts is None:
        return ()
    latent = layer.experts.latent
    into = (Projection("latent_down", latent, hidden, "none"), Projection("latent_up", hidden, latent, "none"))
    around = into if latent else ()
    if not layer.experts.shared_ffn:
        return around
    gate = (Projection("shared_gate", 1, hidden, "none"),) if layer.experts.shared_gate else ()
    return around + gate + _ffn("shared", hidden, layer.experts.shared_ffn, layer.experts.gated, tp)


def dense_ffn(layer: Layer, hidden: int, tp: int = 1) -> tuple[Projection, ...]:
    """Products of the dense feed-forward part; () when the layer has none."""
    return _ffn("dense", hidden, layer.dense_ffn, layer.dense_gated, tp) if layer.dense_ffn else ()


def head(model: MoEModel, tp: int = 1) -> tuple[Projection, ...]:
    """The last product, from hidden to the vocabulary (or a vision model's classes), which also tied weights need.

    The vocabulary is padded up to a multiple of tp, as engines do.
    """
    width = model.classes or model.vocab
    return (Projection("head", -(-width // tp), model.hidden, "column"),)


def _ffn(
    name: str, hidden: int, ffn: int, gated: bool, tp: int, used: int = 1, stored: int = 1
) -> tuple[Projection, ...]:
    if ffn % tp:
        raise ValueError(f"{name} width {ffn} does not divide by {tp}")
    up, columns = ("gate_up", 2 * ffn // tp) if gated else ("up", ffn // tp)
    return (
        Projection(f"{name}_{up}", columns, hidden, "column", used, stored),
        Projection(f"{name}_down", hidden, ffn // tp, "row", used, stored),
    )


def _gqa_widths(attention: Attention, tp: int) -> tuple[int, int]:
    """Query and key widths on one rank; fewer KV heads than ranks are replicated, as every engine does."""
    few, many = sorted((tp, attention.kv_heads))
    if attention.heads % tp or many % few:
        raise ValueError(f"{attention.heads} heads and {attention.kv_heads} KV heads do not divide by tp {tp}")
    return attention.heads // tp * attention.head_dim, max(1, attention.kv_heads // tp) * attention.head_dim


def _gqa(attention: Attention, hidden: int, tp: int, absorbed: bool) -> tuple[Projection, ...]:
    width, kv_width = _gqa_widths(attention, tp)
    gate = width if attention.output_gate else 0
    return (
        Projection("qkv", width + gate + 2 * kv_width, hidden, "column"),
        Projection("o", hidden, width, "row"),
    )


def _mla(attention: Attention, hidden: int, tp: int, absorbed: bool) -> tuple[Projection, ...]:
    heads = _divided_heads(attention, tp)
    rank, nope, values = attention.kv_lora_rank, attention.qk_nope_head_dim, attention.v_head_dim
    query = heads * (nope + attention.qk_rope_head_dim)
    if attention.q_lora_rank:
        q = (
            Projection("q_a", attention.q_lora_rank, hidden, "none"),
            Projection("q_b", query, attention.q_lora_rank, "column"),
        )
    else:
        q = (Projection("q", query, hidden, "column"),)
    kv_a = (Projection("kv_a", rank + attention.qk_rope_head_dim, hidden, "none"),)
    kv_b = (Projection("kv_b", heads * (nope + values), rank, "column"),)
    if absorbed:
        kv_b = (
            Projection("q_absorb", rank, nope, "batch", heads, heads),
            Projection("v_up", values, rank, "batch", heads, heads),
        )
    return (*q, *kv_a, *_indexer(attention, hidden), *kv_b, Projection("o", hidden, heads * values, "row"))


def _indexer(attention: Attention, hidden: int) -> tuple[Projection, ...]:
    if not attention.indexer_heads:
        return ()
    return (
        Projection("indexer_q", attention.indexer_heads * attention.indexer_head_dim, attention.q_lora_rank, "none"),
        Projection("indexer_k", attention.indexer_head_dim, hidden, "none"),
        Projection("indexer_weights", attention.indexer_heads, hidden, "none"),
    )


def _linear(attention: Attention, hidden: int, tp: int, absorbed: bool) -> tuple[Projection, ...]:
    if attention.heads % tp or attention.kv_heads % tp:
        raise ValueError(f"{attention.heads} value and {attention.kv_heads} key heads do not divide by tp {tp}")
    values = attention.heads // tp * attention.v_head_dim
    keys = attention.kv_heads // tp * attention.head_dim
    if attention.gate_rank:
        return (
            Projection("qkv", 2 * keys + values, hidden, "column"),
            Projection("fg_a", 2 * attention.gate_rank, hidden, "none"),
            Projection("f_b", keys, attention.gate_rank, "column"),
            Projection("g_b", values, attention.gate_rank, "column"),
            Projection("b", attention.heads // tp, hidden, "column"),
            Projection("o", hidden, values, "row"),
        )
    return (
        Projection("qkvz", 2 * keys + 2 * values, hidden, "column"),
        Projection("ba", 2 * attention.heads // tp, hidden, "column"),
        Projection("o", hidden, values, "row"),
    )


def _moa(attention: Attention, hidden: int, tp: int, absorbed: bool) -> tuple[Projection, ...]:
    if attention.kv_heads % tp:
        raise ValueError(f"{attention.kv_heads} KV heads do not divide by tp {tp}")
    width = attention.kv_heads // tp * attention.head_dim
    used, stored = attention.attention_top_k, attention.attention_experts
    return (
        Projection("attention_router", stored, hidden, "none"),
        Projection("q", width, hidden, "column", used, stored),
        Projection("kv", 2 * width, hidden, "column"),
        Projection("o", hidden, width, "row", used, stored),
    )


def _divided_heads(attention: Attention, tp: int) -> int:
    if attention.heads % tp:
        raise ValueError(f"{attention.heads} heads do not divide by tp {tp}")
    return attention.heads // tp


_BY_KIND = {"gqa": _gqa, "mla": _mla, "linear": _linear, "moa": _moa}
