"""What encoders add: attention of decoders to their output, keys and values made for it, images, weights held beside.

An encoder-decoder runs as two kinds of step. ``encode`` computes the encoder on source tokens, and at its end the keys
and values that every decoder layer will attend to; ``decode`` and ``prefill`` run the decoder, whose layers read them.
The weights of the half that does not run stay in HBM.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.cost.attention import gqa_decode, gqa_prefill
from moesim.cost.estimate import Cost
from moesim.cost.gemm import gemm
from moesim.cost.memory import memory_bound
from moesim.hardware.precision import PRECISIONS
from moesim.model import shapes
from moesim.model.architecture import Layer, MoEModel
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import Footprint, footprint
from moesim.workload.local import Work, work

BF16 = PRECISIONS["bf16"]


def halves(model: MoEModel) -> tuple[MoEModel, MoEModel]:
    """(encoder, decoder) of an encoder-decoder, each as a model of its own."""
    border = model.encoder_layers
    encoder = replace(model, layers=model.layers[:border], stack="encoder", encoder_layers=0)
    return encoder, replace(model, layers=model.layers[border:], stack="decoder", encoder_layers=0)


def cross_attention_work(deployment: Deployment, layer: Layer, batch: Batch, sequences: np.ndarray) -> list[Work]:
    """Norm, query, attention to `batch.source` tokens and output of a decoder layer, on one tensor-parallel rank; []
    when the layer has none. sequences: [counts] numbers of sequences to price."""
    if layer.cross_attention is None:
        return []
    hidden, tp = deployment.model.hidden, deployment.parallelism.tp
    tokens = sequences * batch.new_tokens
    products = {p.name: p for p in shapes.cross_attention_projections(layer, hidden, tp)}
    return [
        work("norm", [memory_bound(deployment.machine, 4 * tokens * hidden * BF16.bytes)]),
        work("projections", [_product(deployment, products["cross_q"], tokens)]),
        work("cross_attention", [_cross_kernel(deployment, layer, batch, sequences)]),
        work("projections", [_product(deployment, products["cross_o"], tokens)]),
    ]


def encoder_end_work(deployment: Deployment, batch: Batch, sequences: np.ndarray) -> Work:
    """What follows an encoder's layers: for a vision model the head on each image's class token (its patches' embedding
    is counted here too); else the final norm and, for every decoder layer, keys and values of all source tokens."""
    model, machine, tp = deployment.model, deployment.machine, deployment.parallelism.tp
    tokens = sequences * batch.new_tokens
    if model.classes:
        policy, patches = deployment.precision, sequences * (batch.new_tokens - 1)
        formats = {"weights": policy.dense, "activations": policy.activations}
        embedding = gemm(machine, patches, model.hidden, 3 * model.patch**2, **formats)
        norm = memory_bound(machine, 4 * sequences * model.hidden * BF16.bytes)
        return work("head", [embedding, norm, _product(deployment, shapes.head(model, tp)[0], sequences)])
    norm = memory_bound(machine, 4 * tokens * model.hidden * BF16.bytes)
    held = () if deployment.held is None else deployment.held.layers
    products = (p for layer in held for p in shapes.cross_attention_projections(layer, model.hidden, tp))
    return work("head", [norm, *(_product(deployment, p, tokens) for p in products if p.name == "cross_kv")])


def with_held(needs: Footprint, deployment: Deployment, batch: Batch) -> Footprint:
    """HBM with the weights of the half that does not run (its experts in as many slots a rank), without its embedding
    and head, which both halves share; and with the keys and values that the decoder's layers have of the source."""
    if not batch.causal:
        needs = replace(needs, kv_cache=0.0)  # an encoder computes each sequence once and caches nothing of its own
    if deployment.held is None:
        return needs
    one = replace(batch, sequences=np.zeros_like(batch.sequences))
    beside = footprint(replace(deployment, model=deployment.held, held=None), one, 0, reserve=0.0)
    source = batch.source or batch.new_tokens  # an encoder's own tokens are the source
    return replace(
        needs,
        experts=needs.experts + beside.experts,
        attention=needs.attention + beside.attention + _cross_weights(deployment),
        shared_experts=needs.shared_experts + beside.shared_experts,
        dense_ffn=needs.dense_ffn + beside.dense_ffn,
        routers=needs.routers + beside.routers,
        kv_cache=needs.kv_cache + int(batch.sequences.max(initial=0)) * source * _cross_cache(deployment),
    )


def _cross_kernel(deployment: Deployment, layer: Layer, batch: Batch, sequences: np.ndarray) -> Cost:
    attention, tp = layer.cross_attention, deployment.parallelism.tp
    heads, kv_heads = attention.heads // tp, max(1, attention.kv_heads // tp)
    common = {"kv_heads": kv_heads, "head_dim": attention.head_dim, "window": 0, "kv": deployment.precision.kv}
    if batch.phase == "decode":
        heads *= batch.new_tokens
        return gqa_decode(deployment.machine, batch=sequences, context=batch.source, heads=heads, **common)
    # A causal kernel on n tokens after c scores n·c + n(n + 1)/2 pairs; every target token sees the whole source.
    earlier = max(batch.source - (batch.new_tokens + 1) / 2, 0)
    return gqa_prefill(
        deployment.machine, batch=sequences, new_tokens=batch.new_tokens, context=earlier, heads=heads, **common
    )


def _product(deployment: Deployment, product: shapes.Projection, tokens: np.ndarray) -> Cost:
    kind = "head" if product.name == "head" else "attention"
    weights, activations = deployment.precision.operands(kind)
    return gemm(deployment.machine, tokens, product.n, product.k, weights=weights, activations=activations)


def _decoder(deployment: Deployment) -> MoEModel:
    return deployment.model if deployment.model.stack == "decoder" else deployment.held


def _cross_weights(deployment: Deployment) -> float:
    model, tp = _decoder(deployment), deployment.parallelism.tp
    products = (p for layer in model.layers for p in shapes.cross_attention_projections(layer, model.hidden, tp))
    return sum(p.weights for p in products) * deployment.precision.operands("attention")[0].bytes


def _cross_cache(deployment: Deployment) -> float:
    """Bytes that all decoder layers keep of one source token on a rank."""
    tp, kv = deployment.parallelism.tp, deployment.precision.kv.bytes
    attentions = (layer.cross_attention for layer in _decoder(deployment).layers if layer.cross_attention)
    return sum(2 * max(1, attention.kv_heads // tp) * attention.head_dim * kv for attention in attentions)
