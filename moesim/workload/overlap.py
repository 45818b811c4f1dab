"""What a step hides behind what: functions that emit its layers.

An overlap is a function in `OVERLAPS`; its keyword-only arguments are the keys that a scenario sets under ``overlap:``.
It receives the emitter, a `Split` that hands out priced layers, and the operations to start after; it returns those
that the end of the layers waits for. docs/overlap.md draws what each of them does.
"""

from __future__ import annotations

from collections.abc import Callable

from moesim.workload.emitter import Emitter
from moesim.workload.parts import LayerParts, MoEBlock
from moesim.workload.rows import After, Split, inward, outward, row, whole
from moesim.workload.two_batch import take_turns


def none(emit: Emitter, split: Split, after: After) -> After:
    """Everything in a row: shared expert, router, dispatch, experts, combine."""
    return _whole_batch(emit, split, after, _in_a_row)


def shared_expert(emit: Emitter, split: Split, after: After) -> After:
    """The shared expert computes while dispatch is on the wire."""
    return _whole_batch(emit, split, after, _under_dispatch)


def low_latency_hooks(emit: Emitter, split: Split, after: After) -> After:
    """Dispatch and combine without SMs between send and receive, where the shared expert computes (DeepEP's hooks).

    The send and receive kernels run among the compute kernels, since they need its SMs.
    """
    return _whole_batch(emit, split, after, _with_hooks)


def pipelined_chunks(emit: Emitter, split: Split, after: After, *, chunks: int = 2, by: str = "experts") -> After:
    """Chunks of the expert work: dispatch of the next is on the wire while one computes.

    by: ``experts`` cuts every rank's expert slots, whose weights are then read once (Comet); ``tokens`` the tokens,
    so that every chunk reads the weights of all experts it meets (Tutel). Dispatches go first, combines follow as
    chunks end.
    """
    return _whole_batch(emit, split, after, _pipelined, chunks=chunks, by=by)


def two_batch(emit: Emitter, split: Split, after: After, *, hooks: bool = False) -> After:
    """Two micro-batches in turns: one computes while the other's tokens are on the wire.

    The order is that of SGLang's two-batch overlap. Prefill: attention | experts | shared expert, in turns. Decode: six
    stages a layer, the second micro-batch two behind. Layers before the first MoE layer run whole, and so does a batch
    that cannot be cut in two. hooks: the kernels' send and receive parts, as `low_latency_hooks`.
    """
    if split.divisible < 2 or split.first_moe >= split.layers:
        return (low_latency_hooks if hooks else shared_expert)(emit, split, after)
    for layer in split(layers=slice(0, split.first_moe))[0]:
        after = _layer(emit, layer, after, _in_a_row)
    rest = split(batches=2, layers=slice(split.first_moe, None))
    return take_turns(emit, split.phase, rest, after, hooks)


OVERLAPS: dict[str, Callable[..., After]] = {
    "none": none,
    "shared_expert": shared_expert,
    "two_batch": two_batch,
    "low_latency_hooks": low_latency_hooks,
    "pipelined_chunks": pipelined_chunks,
}
# Overlaps that cut a rank's sequences, and into how many micro-batches.
MICROBATCHES = {"two_batch": 2}


def per_block(block: Callable[[Emitter, MoEBlock, After], After]) -> Callable[[Emitter, Split, After], After]:
    """An overlap of the whole batch, layer by layer, whose MoE blocks are emitted by `block`."""

    def overlap(emit: Emitter, split: Split, after: After) -> After:
        return _whole_batch(emit, split, after, block)

    return overlap


def _whole_batch(emit: Emitter, split: Split, after: After, block: Callable, **cut: object) -> After:
    for layer in split(**cut)[0]:
        after = _layer(emit, layer, after, block)
    return after


def _layer(emit: Emitter, layer: LayerParts, after: After, block: Callable) -> After:
    after = row(emit, layer.layer, layer.prepare + layer.core, after)
    if layer.moe is not None:
        after = block(emit, layer.moe, after)
    return row(emit, layer.layer, layer.after, after)


def _in_a_row(emit: Emitter, block: MoEBlock, after: After) -> After:
    (chunk,) = block.chunks
    work = (chunk.experts, *chunk.scatter, whole(chunk.combine))
    return row(emit, block.layer, (block.shared, block.router, whole(chunk.dispatch), *chunk.gather, *work), after)


def _under_dispatch(emit: Emitter, block: MoEBlock, after: After) -> After:
    (chunk,) = block.chunks
    routed = row(emit, block.layer, (block.router,), after)
    arrived = row(emit, block.layer, (whole(chunk.dispatch), *chunk.gather), routed)
    row(emit, block.layer, (block.shared,), routed)
    return row(emit, block.layer, (chunk.experts, *chunk.scatter, whole(chunk.combine)), arrived)


def _with_hooks(emit: Emitter, block: MoEBlock, after: After) -> After:
    (chunk,) = block.chunks
    routed = row(emit, block.layer, (block.router,), after)
    arrived = row(emit, block.layer, outward(chunk.dispatch, True), routed)
    row(emit, block.layer, (block.shared,), routed)
    landed = row(emit, block.layer, inward(chunk.dispatch, True), arrived)
    after = row(emit, block.layer, (*chunk.gather, chunk.experts, *chunk.scatter), landed)
    return row(emit, block.layer, outward(chunk.combine, True) + inward(chunk.combine, True), after)


def _pipelined(emit: Emitter, block: MoEBlock, after: After) -> After:
    routed = row(emit, block.layer, (block.router,), after)
    arrived = [row(emit, block.layer, (whole(chunk.dispatch), *chunk.gather), routed) for chunk in block.chunks]
    ends = row(emit, block.layer, (block.shared,), routed) if block.shared is not None else ()
    for chunk, here in zip(block.chunks, arrived, strict=True):
        ends += row(emit, block.layer, (chunk.experts, *chunk.scatter, whole(chunk.combine)), here)
    return ends
