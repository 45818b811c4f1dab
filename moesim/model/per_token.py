"""What one token costs: cache it leaves behind, tokens it attends to, arithmetic of a forward pass."""

from __future__ import annotations

from moesim.model import shapes
from moesim.model.architecture import Attention, Layer, MoEModel, require_shapes

# Every matrix of a layer, each listed once.
LAYER_LISTINGS = (
    shapes.attention_projections,
    shapes.cross_attention_projections,
    shapes.router,
    shapes.routed_experts,
    shapes.shared_expert,
    shapes.dense_ffn,
)


def cached_elements(attention: Attention | None, tp: int = 1) -> int:
    """Elements that a layer caches per token on one of tp ranks: a key and a value of each KV head.

    MLA caches the latent, the rotary key (DeepSeek-V2, section 2.1) and the indexer's key, whole on every rank; linear
    attention caches nothing per token (`state_elements`).
    """
    if attention is None or attention.kind == "linear":
        return 0
    if attention.kind == "mla":
        return attention.kv_lora_rank + attention.qk_rope_head_dim + attention.indexer_head_dim
    return 2 * max(1, attention.kv_heads // tp) * attention.head_dim


def state_elements(attention: Attention | None, tp: int = 1) -> int:
    """Elements that linear attention keeps per sequence on one of tp ranks, whatever its length.

    A [key width, value width] matrix a value head, and the inputs that the short convolution still sees.
    """
    if attention is None or attention.kind != "linear":
        return 0
    matrices = attention.heads * attention.head_dim * attention.v_head_dim
    return (matrices + (attention.conv_kernel - 1) * _convolution_channels(attention)) // tp


def cached_tokens(attention: Attention, context: int) -> int:
    """Tokens of a sequence of `context` tokens whose keys and values a layer keeps."""
    return min(context, attention.window) if attention.window else context


def attended_tokens(attention: Attention, context: float) -> float:
    """Tokens that a token with `context` tokens in its sequence (itself included) attends to."""
    limit = attention.window or attention.indexer_top_k or context
    return min(context, limit)


def mean_attended_tokens(attention: Attention, length: int) -> float:
    """Mean of `attended_tokens` over the tokens of a causal sequence of `length` tokens."""
    limit = int(attended_tokens(attention, length))
    return (limit * (limit + 1) / 2 + (length - limit) * limit) / length


def attention_flops(attention: Attention | None, attended: float, context: float, absorbed: bool = False) -> float:
    """FLOPs of scores and weighted values for one token, projections excluded.

    A score is a product of two vectors and a weighted value another, 2 FLOPs an element and head. absorbed: MLA works
    in the latent space, as decode does. The indexer scores all of `context`. The gated delta rule needs three products
    with its state and a decay, S ← α(S − β(Sk)kᵀ) + βvkᵀ, o = Sq (Yang et al. 2024, Gated Delta Networks): 7 FLOPs an
    element.
    """
    if attention is None:
        return 0.0
    if attention.kind == "linear":
        state = attention.heads * attention.head_dim * attention.v_head_dim
        return 7.0 * state + 2.0 * attention.conv_kernel * _convolution_channels(attention)
    if attention.kind != "mla":
        return 4.0 * attention.heads * attention.head_dim * attended
    if absorbed:
        width = 2 * attention.kv_lora_rank + attention.qk_rope_head_dim
    else:
        width = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
    indexer = 2.0 * attention.indexer_heads * attention.indexer_head_dim * context
    return 2.0 * attention.heads * width * attended + indexer


def kv_elements_per_token(model: MoEModel) -> int:
    """Elements that the decoder caches per token over all layers, windows ignored."""
    return sum(cached_elements(layer.attention) for layer in _decoder_layers(require_shapes(model)))


def kv_elements(model: MoEModel, context: int) -> int:
    """Elements that a sequence of `context` tokens occupies: windows hold back, linear attention keeps its state."""
    return sum(
        cached_elements(layer.attention) * cached_tokens(layer.attention, context) + state_elements(layer.attention)
        for layer in _decoder_layers(require_shapes(model))
        if layer.attention is not None
    )


def forward_flops(model: MoEModel, length: int) -> float:
    """Forward FLOPs per token, the mean over a sequence of `length` tokens; training costs three times it.

    Each token attends to those before it, in an encoder and in cross-attention to all. For an encoder-decoder this is
    one source token and one target token, both sequences `length` long.
    """
    require_shapes(model)
    flops = matrix_flops(model)
    for index, layer in enumerate(model.layers):
        encodes = model.stack == "encoder" or index < model.encoder_layers
        if layer.attention is not None:
            mean = length if encodes else mean_attended_tokens(layer.attention, length)
            flops += attention_flops(layer.attention, mean, (length + 1) / 2)
        flops += attention_flops(layer.cross_attention, length, length)
    return flops


def matrix_flops(model: MoEModel) -> float:
    """FLOPs of one token in all matrices it uses: twice their elements.

    A vocabulary is looked up, not multiplied; a vision model multiplies its patches, and its head runs once an image.
    """
    require_shapes(model)
    elements = sum(
        projection.active_weights
        for layer in model.layers
        for listing in LAYER_LISTINGS
        for projection in listing(layer, model.hidden)
    )
    head = sum(projection.active_weights for projection in shapes.head(model))
    patches = 3 * model.patch**2 * model.hidden
    return 2.0 * (elements + patches + (head / model.context if model.classes else head))


def _decoder_layers(model: MoEModel) -> tuple[Layer, ...]:
    return () if model.stack == "encoder" else model.layers[model.encoder_layers :]


def _convolution_channels(attention: Attention) -> int:
    return 2 * attention.kv_heads * attention.head_dim + attention.heads * attention.v_head_dim
