"""What the engine runs: operations in order, on streams, for a group of ranks that execute the same program.

Ranks of one group run the same operations with their own durations (single program, multiple data), so an operation
carries an array over the group's ranks rather than one number, and a step of 72 ranks costs as many Python objects as a
step of one. Ranks of different groups (pipeline stages, slices of a pod) run different programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation of every rank of a program: local work, or a collective.

    name: shown in timelines. kind: class of work for breakdowns (``attention``, ``experts``, ``dispatch`` …).
    layer: model layer, −1 when none. stream: operations of one stream run in order; streams overlap.
    seconds: [ranks] uncontended duration of local work; None for a collective.
    after: indices of earlier operations of this program whose end on the same rank this one needs.
    transfer: the collective; programs that share one hand in the same object. compute_share: share of the compute
    stream's speed that the collective takes from a rank while it runs there (SMs and HBM bandwidth), in [0, 1).
    """

    name: str
    kind: str
    layer: int
    stream: str
    seconds: np.ndarray | None = None
    after: tuple[int, ...] = ()
    transfer: Transfer | None = None
    compute_share: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Operations in issue order. ranks: [ranks] global ranks that run them.

    A collective that is to overlap with compute is issued, i.e. listed, before the compute that hides it.
    """

    ranks: np.ndarray
    ops: tuple[Op, ...]

    def __post_init__(self):
        for index, op in enumerate(self.ops):
            if (op.seconds is None) == (op.transfer is None):
                raise ValueError(f"op {index} {op.name!r}: give either seconds or a transfer")
            if op.seconds is not None and op.seconds.shape != self.ranks.shape:
                raise ValueError(f"op {index} {op.name!r}: seconds {op.seconds.shape}, ranks {self.ranks.shape}")
            if any(not 0 <= before < index for before in op.after):
                raise ValueError(f"op {index} {op.name!r}: after={op.after} must name earlier ops")
