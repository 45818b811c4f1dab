"""From the few numbers that describe a stack of layers to the layers themselves.

Papers and config files say "the first 3 layers are dense", "every second layer has experts", "three linear layers, then
a full one"; the functions here say it too, so that catalogue files and Hugging Face configurations expand alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from moesim.model.architecture import Attention, Experts, Layer


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Feed-forward parts of a stack.

    dense_ffn: inner width in layers without experts. parallel_ffn: that of a dense FFN beside the experts (Arctic).
    """

    dense_ffn: int = 0
    dense_gated: bool = True
    dense_bias: bool = False
    experts: Experts | None = None
    parallel_ffn: int = 0


def moe_layers(layers: int, first_dense: int = 0, every: int = 1) -> tuple[int, ...]:
    """Indices of the layers with experts: the last of every `every` layers, the first `first_dense` layers excepted."""
    return tuple(index for index in range(first_dense, layers) if (index + 1) % every == 0)


def alternate(layers: int, full: Attention, other: Attention, full_every: int) -> tuple[Attention, ...]:
    """Attention of each layer: `full` in the last of every `full_every` layers, `other` (windowed, linear) else."""
    return tuple(full if (index + 1) % full_every == 0 else other for index in range(layers))


def patterned(
    pattern: str, attention: Attention, linear: Attention | None, feed_forward: FeedForward
) -> tuple[Layer, ...]:
    """One `Layer` a letter, each alone in its block: ``M`` linear attention or Mamba, ``*`` attention, ``E`` experts,
    ``-`` a dense FFN."""
    dense = Layer(None, feed_forward.dense_ffn, feed_forward.dense_gated, None, feed_forward.dense_bias)
    kinds = {
        "M": Layer(linear),
        "*": Layer(attention),
        "E": Layer(None, feed_forward.parallel_ffn, feed_forward.dense_gated, feed_forward.experts),
        "-": dense,
    }
    return tuple(kinds[letter] for letter in pattern)


def build_layers(
    attentions: Sequence[Attention],
    feed_forward: FeedForward,
    with_experts: Collection[int] = (),
    decoder_from: int | None = None,
) -> tuple[Layer, ...]:
    """One `Layer` for each attention. decoder_from: layers from this index on also attend to the encoder's output."""
    with_experts = frozenset(with_experts)
    return tuple(
        Layer(
            attention,
            feed_forward.parallel_ffn if index in with_experts else feed_forward.dense_ffn,
            feed_forward.dense_gated,
            feed_forward.experts if index in with_experts else None,
            feed_forward.dense_bias,
            attention if decoder_from is not None and index >= decoder_from else None,
        )
        for index, attention in enumerate(attentions)
    )
