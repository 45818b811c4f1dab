"""Two micro-batches in turns: the stages of a layer, and the order in which they are issued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moesim.workload.emitter import Emitter
from moesim.workload.parts import Exchanged, LayerParts, Piece
from moesim.workload.rows import After, inward, outward, row


def take_turns(
    emit: Emitter, phase: str, micro_batches: Sequence[Sequence[LayerParts]], after: After, hooks: bool
) -> After:
    """Emit the layers of two micro-batches stage by stage, and hand on what their ends are.

    phase: ``prefill`` or ``decode``, which have different stages. hooks: cut exchanges into send, flight and receive.
    """
    stages, delay = _STAGES[phase]
    halves = [_Half(emit, after, hooks) for _ in range(2)]
    first, second = (
        [(half, stage, layer) for layer in layers for stage in stages]
        for half, layers in zip(halves, micro_batches, strict=True)
    )
    turns = first[:delay]
    for one, other in zip(first[delay:], second, strict=False):
        turns += [one, other]
    for half, stage, layer in turns + second[len(first) - delay :]:
        stage(half, layer)
    return halves[0].after + halves[1].after


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
        self.flying = row(self.emit, layer.layer, outward(exchanged, self.hooks), self.after)

    def receive(self, layer: LayerParts, exchanged: Exchanged | None) -> None:
        """Wait for the tokens."""
        self.after = tuple(dict.fromkeys(self.after + self.flying))
        self.row(layer, inward(exchanged, self.hooks))


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
