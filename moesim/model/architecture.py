"""A transformer with routed experts, as the numbers that its cost depends on.

Nothing here computes: shapes of matrices are in `moesim.model.shapes`, counts in `moesim.model.parameters`, cache and
arithmetic per token in `moesim.model.per_token`.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import InvalidInput, Problem


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one layer.

    kind: ``gqa`` (also MHA, when kv_heads == heads), ``mla`` (DeepSeek-V2's latent attention), ``linear`` (gated delta
    net) or ``moa`` (JetMoE's attention experts).
    window: sliding-window or chunk length in tokens, 0 = full.
    q_lora_rank … v_head_dim: MLA's ranks and head widths; q_lora_rank 0 = the query is not compressed.
    linear: heads and v_head_dim are those of the values, kv_heads and head_dim those of the keys; conv_kernel is the
    length of the short convolution in front of them. gate_rank: rank of the projections that make a decay a channel
    and the output gate (Kimi Delta Attention); 0 = one decay a head and a full gate (Qwen3-Next).
    moa: attention_experts pairs of query and output matrices, attention_top_k used by a token; common keys and values,
    so heads == kv_heads * attention_top_k.
    output_gate: the query projection also makes a sigmoid gate on the output (Qwen3-Next).
    qk_norm: learned norm of queries and keys, ``head`` (one head_dim wide) or ``full`` (all heads together).
    sinks: one learned logit a head (gpt-oss).
    indexer_*: sparse attention that keeps indexer_top_k tokens, scored by small heads (DeepSeek-V3.2).
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
    qk_norm: str = ""
    sinks: bool = False
    conv_kernel: int = 0
    gate_rank: int = 0
    attention_experts: int = 1
    attention_top_k: int = 1
    indexer_heads: int = 0
    indexer_head_dim: int = 0
    indexer_top_k: int = 0


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed and shared experts of one MoE layer.

    ffn: inner width of one routed expert. shared_ffn: total inner width of the shared experts (0 = none).
    latent: width that routed experts work in and tokens travel in, 0 = hidden (LatentMoE, Nemotron 3 Super: one product
    before dispatch and one after combine).
    gated: three matrices an expert (SwiGLU) instead of two. score: ``softmax``, ``sigmoid`` or ``sparsemixer``.
    groups, kept_groups: group-limited routing (1, 1 = none).
    normalise_top_k: the gates of the chosen experts are divided by their sum. routed_scaling: factor on them.
    correction_bias: balanced by a bias on the scores that only the choice sees (DeepSeek-V3).
    bias: every expert has biases. output_bias: one bias on the sum of the experts (JetMoE). router_bias: as it says.
    shared_gate: a sigmoid gate on the shared expert (Qwen). clamped: inputs of the activation are clamped (gpt-oss).
    """

    routed: int
    top_k: int
    ffn: int
    shared_ffn: int = 0
    gated: bool = True
    score: str = "softmax"
    groups: int = 1
    kept_groups: int = 1
    normalise_top_k: bool = True
    routed_scaling: float = 1.0
    correction_bias: bool = False
    bias: bool = False
    output_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    clamped: bool = False
    latent: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: attention or none, and a feed-forward part or none, which is dense, routed or both (a parallel dense
    residual).

    attention: None for a block without. dense_ffn: inner width of a dense FFN, 0 = none. experts: None = dense layer.
    cross_attention: of a decoder block to the encoder's output.
    """

    attention: Attention | None
    dense_ffn: int = 0
    dense_gated: bool = True
    experts: Experts | None = None
    dense_bias: bool = False
    cross_attention: Attention | None = None


@dataclass(frozen=True, slots=True)
class Rumour:
    """What is said of a model whose shapes nobody published: enough for its totals, too little to simulate it."""

    layers: int
    routed: int
    top_k: int
    parameters_per_expert: int
    other_parameters: int


@dataclass(frozen=True, slots=True)
class MoEModel:
    """A model: blocks in order, plus embedding and head. Methods and figures live in `moesim.model.parameters`.

    stack: ``decoder``, ``encoder`` or ``encoder_decoder``; layers then lists the encoder_layers first.
    context: longest sequence. native, native_experts: released precision of the weights, and of the routed experts.
    norm: ``rms``, ``layernorm`` or ``layernorm_no_bias``. norms_per_layer: without those inside attention.
    patch, classes: of a vision model, which embeds patch x patch pixels instead of a vocabulary and ends in classes.
    learned_positions: one learned vector a position up to context.
    rumour: set instead of layers when the shapes are not public; see `require_shapes`.
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
    native_experts: str = ""
    encoder_layers: int = 0
    norm: str = "rms"
    norms_per_layer: int = 2
    head_bias: bool = False
    patch: int = 0
    classes: int = 0
    learned_positions: bool = False
    rumour: Rumour | None = None

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers with routed experts."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.experts is not None)

    @property
    def expert_hidden(self) -> int:
        """Width of tokens in front of and behind the routed experts: hidden, or their latent width."""
        latent = next((layer.experts.latent for layer in self.layers if layer.experts is not None), 0)
        return latent or self.hidden


def require_shapes(model: MoEModel) -> MoEModel:
    """The model itself when its shapes are public; InvalidInput when only totals are known, as of GPT-4."""
    if model.rumour is not None:
        raise InvalidInput(
            Problem(
                f"{model.name} cannot be simulated: only rumoured totals are known, neither its layer shapes nor its "
                "attention; choose a model with published shapes (`moesim models`)",
                field="model",
            )
        )
    return model
