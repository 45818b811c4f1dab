"""How many parameters a model has and how many of them a token uses, by kind of tensor.

Matrices come from `moesim.model.shapes`; this module adds vectors (norms, biases, gates), so that totals equal those
of the released checkpoints to the parameter. Left out: T5's relative-position buckets, one part in ten million.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from moesim.model import shapes
from moesim.model.architecture import Attention, Experts, Layer, MoEModel

_NORM_VECTORS = {"rms": 1, "layernorm_no_bias": 1, "layernorm": 2}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts by kind of tensor; adds element by element.

    router includes attention's router where experts are in the attention. other: rumoured parameters of unknown kind.
    """

    embedding: int = 0
    head: int = 0
    norms: int = 0
    attention: int = 0
    router: int = 0
    routed_experts: int = 0
    shared_experts: int = 0
    dense_ffn: int = 0
    other: int = 0

    def __add__(self, more: Parameters) -> Parameters:
        return Parameters(*(getattr(self, kind) + getattr(more, kind) for kind in KINDS))

    @property
    def total(self) -> int:
        """Sum over the kinds."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def without_input_embedding(self) -> int:
        """The total without the input embedding, unless the head uses the same matrix."""
        return self.total - (self.embedding if self.head else 0)

    @property
    def without_embeddings(self) -> int:
        """The total without input embedding and head."""
        return self.total - self.embedding - self.head


KINDS = tuple(field.name for field in fields(Parameters))


def parameters(model: MoEModel) -> Parameters:
    """All parameters of the model, multi-token-prediction modules excluded (`mtp_parameters`)."""
    return _count(model, active=False)


def active_parameters(model: MoEModel) -> Parameters:
    """The parameters that one token uses: its top-k experts, and everything that is not an expert.

    Vendors' "active" figures leave out the input embedding, or embedding and head, or neither: see the properties of
    `Parameters`.
    """
    return _count(model, active=True)


def layer_parameters(layer: Layer, model: MoEModel, active: bool = False) -> Parameters:
    """Parameters of one layer of the model, all of them or those that one token uses."""
    hidden = model.hidden
    used = 0 if layer.experts is None else (layer.experts.top_k if active else layer.experts.routed)
    return Parameters(
        norms=model.norms_per_layer * hidden * _NORM_VECTORS[model.norm] * (layer.attention is not None)
        + hidden * _NORM_VECTORS[model.norm] * (layer.cross_attention is not None),
        attention=_weights(shapes.attention_projections(layer, hidden), active)
        + _weights(shapes.cross_attention_projections(layer, hidden), active)
        + _attention_vectors(layer.attention, hidden)
        + _attention_vectors(layer.cross_attention, hidden),
        router=_weights(shapes.router(layer, hidden), active) + _router_vectors(layer.experts),
        routed_experts=_weights(shapes.routed_experts(layer, hidden), active)
        + used * _expert_biases(layer.experts, hidden)
        + (hidden if layer.experts is not None and layer.experts.output_bias else 0),
        shared_experts=_weights(shapes.shared_expert(layer, hidden), active),
        dense_ffn=_weights(shapes.dense_ffn(layer, hidden), active)
        + ((1 + layer.dense_gated) * layer.dense_ffn + hidden if layer.dense_ffn and layer.dense_bias else 0),
    )


def mtp_parameters(model: MoEModel) -> int:
    """Parameters of the multi-token-prediction modules, without the embedding and head they share.

    A module is one more layer like the last, a projection from 2 · hidden to hidden, and three norms (DeepSeek-V3
    report, section 2.2).
    """
    if not model.mtp_layers:
        return 0
    norm = model.hidden * _NORM_VECTORS[model.norm]
    return model.mtp_layers * (layer_parameters(model.layers[-1], model).total + 2 * model.hidden**2 + 3 * norm)


def weight_bytes(model: MoEModel, bytes_per_element: Mapping[str, float]) -> dict[str, float]:
    """Bytes of the weights by kind. bytes_per_element: one entry, scales included, for each kind the model has."""
    counts = parameters(model)
    present = [kind for kind in KINDS if getattr(counts, kind)]
    if missing := [kind for kind in present if kind not in bytes_per_element]:
        raise ValueError(f"bytes_per_element lacks {', '.join(missing)}")
    return {kind: getattr(counts, kind) * bytes_per_element[kind] for kind in present}


def dense_twin(model: MoEModel) -> MoEModel:
    """The dense model of the same depth, width and attention whose FFNs hold what a token uses of the experts.

    Its parameters equal the active parameters of `model` but for routers and small vectors.
    """
    return replace(
        model,
        name=f"{model.name}-dense-twin",
        title=f"{model.title}, dense with the same active parameters",
        layers=tuple(_dense_layer(layer) for layer in model.layers),
        mtp_layers=0,
        native_experts="",
    )


def _dense_layer(layer: Layer) -> Layer:
    if layer.experts is None:
        return layer
    matrices, dense_matrices = 2 + layer.experts.gated, 2 + layer.dense_gated
    elements = matrices * (layer.experts.top_k * layer.experts.ffn + layer.experts.shared_ffn)
    elements += dense_matrices * layer.dense_ffn
    return replace(layer, experts=None, dense_gated=layer.experts.gated, dense_ffn=elements // matrices)


def _count(model: MoEModel, active: bool) -> Parameters:
    if model.rumour is not None:
        experts = model.rumour.top_k if active else model.rumour.routed
        return Parameters(
            routed_experts=experts * model.rumour.parameters_per_expert, other=model.rumour.other_parameters
        )
    stacks = 2 if model.stack == "encoder_decoder" else 1
    ends = Parameters(
        embedding=_embedding(model), head=_head(model), norms=stacks * model.hidden * _NORM_VECTORS[model.norm]
    )
    return sum((layer_parameters(layer, model, active) for layer in model.layers), ends)


def _weights(projections: tuple[shapes.Projection, ...], active: bool) -> int:
    return sum(p.active_weights if active else p.weights for p in projections)


def _embedding(model: MoEModel) -> int:
    pixels = 3 * model.patch**2  # ViT: a convolution over RGB patches with a bias, and a class token
    inputs = pixels + 2 if model.patch else model.vocab
    return (inputs + (model.context if model.learned_positions else 0)) * model.hidden


def _head(model: MoEModel) -> int:
    bias = model.classes or model.vocab if model.head_bias else 0
    return (0 if model.tied_embeddings else _weights(shapes.head(model), active=False)) + bias


def _router_vectors(experts: Experts | None) -> int:
    return 0 if experts is None else experts.routed * (experts.router_bias + experts.correction_bias)


def _expert_biases(experts: Experts | None, hidden: int) -> int:
    return (1 + experts.gated) * experts.ffn + hidden if experts is not None and experts.bias else 0


def _attention_vectors(attention: Attention | None, hidden: int) -> int:
    """Biases, norms and other vectors inside attention."""
    if attention is None:
        return 0
    count = hidden if attention.output_bias else 0
    query, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    if attention.qkv_bias:
        count += query + 2 * keys
    if attention.qk_norm:
        count += {"head": 2 * attention.head_dim, "full": query + keys}[attention.qk_norm]
    if attention.sinks:
        count += attention.heads
    if attention.kind == "mla":  # norms of the two latents, LayerNorm of the indexer's keys
        count += attention.q_lora_rank + attention.kv_lora_rank + 2 * attention.indexer_head_dim
    if attention.kind == "linear":  # convolution over q, k, v; decay and step bias a head; norm of the output
        values = attention.heads * attention.v_head_dim
        steps = keys if attention.gate_rank else attention.heads
        count += attention.conv_kernel * (2 * keys + values) + attention.heads + steps + attention.v_head_dim
    return count
