"""What overlap functions work with: priced layers on request, and pieces emitted one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moesim.workload.emitter import Emitter
from moesim.workload.parts import Exchanged, LayerParts, Piece

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


def row(emit: Emitter, layer: int, pieces: Sequence[Piece | tuple[Piece, ...] | None], after: After) -> After:
    """Emit pieces one after another, those in a tuple beside each other; what is None costs nothing."""
    for piece in pieces:
        if piece is not None:
            together = piece if isinstance(piece, tuple) else (piece,)
            after = tuple(emit.piece(each, layer, after) for each in together)
    return after


def whole(exchanged: Exchanged | None) -> Piece | None:
    """The kernel in one piece."""
    return None if exchanged is None else exchanged.whole


def outward(exchanged: Exchanged | None, hooks: bool) -> tuple[Piece | None, ...]:
    """What puts tokens on the wire: the whole kernel, or with hooks its sending part and the flight."""
    if exchanged is None:
        return ()
    return (exchanged.send, exchanged.flight) if hooks else (exchanged.whole,)


def inward(exchanged: Exchanged | None, hooks: bool) -> tuple[Piece | None, ...]:
    """What takes tokens from the wire when they are needed: nothing, or with hooks the receiving part."""
    return (exchanged.receive,) if exchanged is not None and hooks else ()
