"""What a MoE block hides behind what: functions that emit its operations.

An overlap is a function in `OVERLAPS`; its keyword-only arguments are the keys that a scenario sets under ``overlap:``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter


@dataclass(frozen=True, slots=True, eq=False)
class MoEBlock:
    """The parts of one MoE layer behind attention. Seconds are [ranks].

    shared: None without shared experts. dispatch, combine: None when every rank already holds all tokens; their shares
    are what they take of compute, as in `moesim.engine.program.Op`.
    """

    layer: int
    router: np.ndarray
    shared: np.ndarray | None
    experts: np.ndarray
    dispatch: Transfer | None
    combine: Transfer | None
    dispatch_share: float = 0.0
    combine_share: float = 0.0


def none(emit: Emitter, block: MoEBlock, after: tuple[int, ...]) -> tuple[int, ...]:
    """Everything in a row: shared expert, router, dispatch, experts, combine."""
    if block.shared is not None:
        after = (emit.compute("shared_expert", block.layer, block.shared, after),)
    routed = emit.compute("router", block.layer, block.router, after)
    return _experts_and_combine(emit, block, _dispatch(emit, block, (routed,)))


def shared_expert(emit: Emitter, block: MoEBlock, after: tuple[int, ...]) -> tuple[int, ...]:
    """The shared expert computes while dispatch is on the wire."""
    routed = emit.compute("router", block.layer, block.router, after)
    arrived = _dispatch(emit, block, (routed,))
    if block.shared is not None:
        emit.compute("shared_expert", block.layer, block.shared)
    return _experts_and_combine(emit, block, arrived)


OVERLAPS: dict[str, Callable[[Emitter, MoEBlock, tuple[int, ...]], tuple[int, ...]]] = {
    "none": none,
    "shared_expert": shared_expert,
}


def _dispatch(emit: Emitter, block: MoEBlock, after: tuple[int, ...]) -> tuple[int, ...]:
    if block.dispatch is None:
        return after
    return (emit.communicate("dispatch", block.layer, block.dispatch, after, block.dispatch_share),)


def _experts_and_combine(emit: Emitter, block: MoEBlock, after: tuple[int, ...]) -> tuple[int, ...]:
    computed = emit.compute("experts", block.layer, block.experts, after)
    if block.combine is None:
        return (computed,)
    return (emit.communicate("combine", block.layer, block.combine, (computed,), block.combine_share),)
