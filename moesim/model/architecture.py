"""A transformer with routed experts, as the numbers that its cost depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one layer.

    kind: ``gqa`` (also MHA, when kv_heads == heads), ``mla``, ``linear`` (gated delta net), or ``moa``.
    window: sliding-window or chunk length in tokens, 0 = full. MLA uses the ranks and head dims below.
    """

    kind: str
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    output_gate: bool = False


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed and shared experts of one MoE layer.

    ffn: inner width of one routed expert. shared_ffn: total inner width of the shared experts (0 = none).
    gated: three matrices an expert (SwiGLU) instead of two. score: ``softmax``, ``sigmoid`` or ``sparsemixer``.
    groups, kept_groups: group-limited routing (1, 1 = none).
    """

    routed: int
    top_k: int
    ffn: int
    shared_ffn: int = 0
    gated: bool = True
    score: str = "softmax"
    groups: int = 1
    kept_groups: int = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: attention and a feed-forward part, which is dense, routed or both (a parallel dense residual).

    attention: None for a block without. dense_ffn: inner width of a dense FFN, 0 = none. experts: None = dense layer.
    """

    attention: Attention | None
    dense_ffn: int = 0
    dense_gated: bool = True
    experts: Experts | None = None


@dataclass(frozen=True, slots=True)
class MoEModel:
    """A model: blocks in order, plus embedding and head. Methods and figures live in `moesim.model.parameters`.

    stack: ``decoder``, ``encoder`` or ``encoder_decoder``. context: longest sequence. native: released precision.
    """

    name: str
    title: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    context: int = 0
    native: str = "bf16"
    stack: str = "decoder"
    mtp_layers: int = 0

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers with routed experts."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.experts is not None)
