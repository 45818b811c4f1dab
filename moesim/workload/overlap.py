"""What a step hides behind what: functions that emit its layers.

An overlap is a function in `OVERLAPS`; its keyword-only arguments are the keys that a scenario sets under ``overlap:``.
It receives the emitter, a `Split` that hands out priced layers, and the operations to start after; it returns those
that the end of the layers waits for. docs/overlap.md draws what each of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from moesim.workload.emitter import Emitter
from moesim.workload.parts import Exchanged, LayerParts, MoEBlock, Piece

After = tuple[int, ...]


class Split(Protocol):
    """Prices layers of a step cut as an overlap wants it."""

    phase: str
    layers: int
    first_moe: int  # position of the first layer with routed experts; `layers` without any
    divisible: int  # micro-batches into which every rank's sequences can be cut

    def __call__(
        self, *, batches: int = 1, chunks: int = 1, by: str = "tokens", layers: slice = slice(None)
    ) -> tuple[tuple[LayerParts, ...], ...]:
        """[micro-batch][layer] parts, every kernel priced at the shapes that are left to it.

        batches: cut every rank's sequences into so many. chunks: cut the expert work of a layer into so many, ``by``
        tokens or by expert slots.
        """


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
    stages, delay = _STAGES[split.phase]
    halves = [_Half(emit, after, hooks) for _ in range(2)]
    first, second = (
        [(half, stage, layer) for layer in layers for stage in stages]
        for half, layers in zip(halves, split(batches=2, layers=slice(split.first_moe, None)), strict=True)
    )
    turns = first[:delay]
    for one, other in zip(first[delay:], second, strict=False):
        turns += [one, other]
    for half, stage, layer in turns + second[len(first) - delay :]:
        stage(half, layer)
    return halves[0].after + halves[1].after


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
    work = (chunk.experts, *chunk.scatter, _whole(chunk.combine))
    return row(emit, block.layer, (block.shared, block.router, _whole(chunk.dispatch), *chunk.gather, *work), after)


def _under_dispatch(emit: Emitter, block: MoEBlock, after: After) -> After:
    (chunk,) = block.chunks
    routed = row(emit, block.layer, (block.router,), after)
    arrived = row(emit, block.layer, (_whole(chunk.dispatch), *chunk.gather), routed)
    row(emit, block.layer, (block.shared,), routed)
    return row(emit, block.layer, (chunk.experts, *chunk.scatter, _whole(chunk.combine)), arrived)


def _with_hooks(emit: Emitter, block: MoEBlock, after: After) -> After:
    (chunk,) = block.chunks
    routed = row(emit, block.layer, (block.router,), after)
    arrived = row(emit, block.layer, _outward(chunk.dispatch, True), routed)
    row(emit, block.layer, (block.shared,), routed)
    landed = row(emit, block.layer, _inward(chunk.dispatch, True), arrived)
    after = row(emit, block.layer, (*chunk.gather, chunk.experts, *chunk.scatter), landed)
    return row(emit, block.layer, _outward(chunk.combine, True) + _inward(chunk.combine, True), after)


def _pipelined(emit: Emitter, block: MoEBlock, after: After) -> After:
    routed = row(emit, block.layer, (block.router,), after)
    arrived = [row(emit, block.layer, (_whole(chunk.dispatch), *chunk.gather), routed) for chunk in block.chunks]
    ends = row(emit, block.layer, (block.shared,), routed) if block.shared is not None else ()
    for chunk, here in zip(block.chunks, arrived, strict=True):
        ends += row(emit, block.layer, (chunk.experts, *chunk.scatter, _whole(chunk.combine)), here)
    return ends


@dataclass(slots=True, eq=False)
class _Half:
    """One of two micro-batches. after: what its next operation needs; flying: its tokens on the wire."""

    emit: Emitter
    after: After
    hooks: bool
    flying: After = ()

    def row(self, layer: LayerParts, pieces: Sequence[Piece | None]) -> None:
        """Emit pieces one after another, behind what the micro-batch did before."""
        self.after = row(self.emit, layer.layer, pieces, self.after)

    def send(self, layer: LayerParts, exchanged: Exchanged | None) -> None:
        """Put tokens on the wire, and go on without waiting for them."""
        self.flying = row(self.emit, layer.layer, _outward(exchanged, self.hooks), self.after)

    def receive(self, layer: LayerParts, exchanged: Exchanged | None) -> None:
        """Wait for the tokens."""
        self.after = tuple(dict.fromkeys(self.after + self.flying))
        self.row(layer, _inward(exchanged, self.hooks))


def _prepare(half: _Half, layer: LayerParts) -> None:
    half.row(layer, layer.prepare)


def _core_and_route(half: _Half, layer: LayerParts) -> None:
    half.row(layer, layer.core)
    if layer.moe is not None:
        half.row(layer, (layer.moe.router,))


def _dispatch(half: _Half, layer: LayerParts) -> None:
    if layer.moe is not None:
        half.send(layer, layer.moe.chunks[0].dispatch)


def _shared(half: _Half, layer: LayerParts) -> None:
    if layer.moe is not None:
        half.row(layer, (layer.moe.shared,))


def _experts_and_return(half: _Half, layer: LayerParts) -> None:
    if layer.moe is not None:
        (chunk,) = layer.moe.chunks
        half.receive(layer, chunk.dispatch)
        half.row(layer, (*chunk.gather, chunk.experts, *chunk.scatter))
        half.send(layer, chunk.combine)


def _land(half: _Half, layer: LayerParts) -> None:
    if layer.moe is not None:
        half.receive(layer, layer.moe.chunks[0].combine)


def _nothing(half: _Half, layer: LayerParts) -> None:
    """A turn without work."""


def _finish(half: _Half, layer: LayerParts) -> None:
    half.row(layer, layer.after)


def _together(*stages: Callable[[_Half, LayerParts], None]) -> Callable[[_Half, LayerParts], None]:
    """One stage of several."""

    def run(half: _Half, layer: LayerParts) -> None:
        for stage in stages:
            stage(half, layer)

    return run


# Stages of a layer between which the micro-batches take turns, and by how many the second one starts later, as in
# SGLang's operations_strategy.py (DeepSeek); but combine lands in the last stage, not in the fifth, so that the second
# micro-batch's dispatch need not wait for it.
_STAGES = {
    "prefill": (
        (
            _together(_prepare, _core_and_route, _dispatch),
            _experts_and_return,
            _together(_shared, _land, _finish),
        ),
        0,
    ),
    "decode": (
        (
            _prepare,
            _core_and_route,
            _together(_dispatch, _shared),
            _experts_and_return,
            _nothing,
            _together(_land, _finish),
        ),
        2,
    ),
}  # fmt: skip


def row(emit: Emitter, layer: int, pieces: Sequence[Piece | tuple[Piece, ...] | None], after: After) -> After:
    """Emit pieces one after another, those in a tuple beside each other; what is None costs nothing."""
    for piece in pieces:
        if piece is not None:
            together = piece if isinstance(piece, tuple) else (piece,)
            after = tuple(emit.piece(each, layer, after) for each in together)
    return after


def _whole(exchanged: Exchanged | None) -> Piece | None:
    return None if exchanged is None else exchanged.whole


def _outward(exchanged: Exchanged | None, hooks: bool) -> tuple[Piece | None, ...]:
    """What puts tokens on the wire: the whole kernel, or with hooks its sending part and the flight."""
    if exchanged is None:
        return ()
    return (exchanged.send, exchanged.flight) if hooks else (exchanged.whole,)


def _inward(exchanged: Exchanged | None, hooks: bool) -> tuple[Piece | None, ...]:
    return (exchanged.receive,) if exchanged is not None and hooks else ()
