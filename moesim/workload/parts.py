"""The parts of one layer of one micro-batch, priced: what overlap functions put in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One operation of every rank: local work of seconds [ranks], or a collective.

    compute_share: what the collective takes of compute beside it, as in `moesim.engine.program.Op`.
    """

    kind: str
    seconds: np.ndarray | None = None
    transfer: Transfer | None = None
    compute_share: float = 0.0


Row = tuple[Piece | tuple[Piece, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Exchanged:
    """One dispatch or combine: as one operation, or cut by hooks into three.

    whole: the kernel as it runs without hooks. send, receive: the SMs' share of it [ranks], which packs tokens before
    and unpacks them after the wire; flight: what is left of the kernel in between, without any SM. None where the
    kernel has no hooks.
    """

    whole: Piece
    send: Piece | None = None
    flight: Piece | None = None
    receive: Piece | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some of a layer's expert work. dispatch, combine: None when every rank already holds all tokens.

    gather: collectives between dispatch and the experts (expert tensor parallelism brings a group's tokens together),
    scatter: between the experts and combine.
    """

    dispatch: Exchanged | None
    experts: Piece
    combine: Exchanged | None
    gather: tuple[Piece, ...] = ()
    scatter: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MoEBlock:
    """The MoE part of a layer. shared: None without shared experts. chunks: one, or those that a pipeline works off."""

    layer: int
    router: Piece
    shared: Piece | None
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LayerParts:
    """One layer in order: prepare (norm, projections), core (attention, its sum over tensor-parallel ranks, a dense
    feed-forward part), moe, after (what brings the output to every rank that goes on with it). Pieces in a tuple of
    their own run beside each other."""

    layer: int
    prepare: Row
    core: Row
    moe: MoEBlock | None
    after: Row = ()
