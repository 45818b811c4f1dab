"""Writes a program, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.engine.program import Op, Program
from moesim.network.transfer import Transfer
from moesim.workload.parts import Piece


@dataclass(slots=True, eq=False)
class Emitter:
    """Collects the operations of one program. Each method appends one and returns its index, to be named in ``after``.

    Local work goes to the ``compute`` stream, collectives to ``communication``, loads of weights to ``copy``: each
    stream in order, all at once unless ``after`` says otherwise.
    """

    ranks: np.ndarray
    ops: list[Op] = field(default_factory=list)

    def compute(self, kind: str, layer: int, seconds: np.ndarray, after: tuple[int, ...] = ()) -> int:
        """Local work of seconds [ranks]."""
        return self._add(Op(_name(kind, layer), kind, layer, "compute", seconds=seconds, after=after))

    def copy(self, kind: str, layer: int, seconds: np.ndarray, after: tuple[int, ...] = ()) -> int:
        """A copy of seconds [ranks] from memory behind HBM, on the ``copy`` stream."""
        return self._add(Op(_name(kind, layer), kind, layer, "copy", seconds=seconds, after=after))

    def communicate(
        self, kind: str, layer: int, transfer: Transfer, after: tuple[int, ...] = (), compute_share: float = 0.0
    ) -> int:
        """A collective; compute_share is what it takes from compute that runs beside it."""
        stream = "communication"
        name = _name(kind, layer)
        return self._add(Op(name, kind, layer, stream, after=after, transfer=transfer, compute_share=compute_share))

    def message(self, kind: str, transfer: Transfer, after: tuple[int, ...] = ()) -> int:
        """A message to or from another program. Each has a stream of its own: sends do not wait for each other."""
        return self._add(Op(kind, kind, -1, f"{kind} {len(self.ops)}", after=after, transfer=transfer))

    def receive(self, kind: str, transfer: Transfer, after: tuple[int, ...] = ()) -> int:
        """A message from another program, posted ahead: receives wait for each other and for nothing else."""
        return self._add(Op(kind, kind, -1, "receive", after=after, transfer=transfer))

    def piece(self, piece: Piece, layer: int, after: tuple[int, ...] = ()) -> int:
        """A priced part of a layer, on the stream where it belongs."""
        if piece.transfer is None:
            return self.compute(piece.kind, layer, piece.seconds, after)
        return self.communicate(piece.kind, layer, piece.transfer, after, piece.compute_share)

    def write(
        self,
        kind: str,
        layer: int,
        stream: str,
        after: tuple[int, ...],
        seconds: np.ndarray | None = None,
        transfer: Transfer | None = None,
        compute_share: float = 0.0,
    ) -> int:
        """Any operation on any stream."""
        return self._add(Op(_name(kind, layer), kind, layer, stream, seconds, after, transfer, compute_share))

    def program(self) -> Program:
        """What was written."""
        return Program(self.ranks, tuple(self.ops))

    def _add(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.ops) - 1


def _name(kind: str, layer: int) -> str:
    return kind if layer < 0 else f"L{layer} {kind}"
