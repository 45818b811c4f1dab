"""Several consecutive decode steps taken as one: what a step routes that checks drafted tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.routing.replay import Routes


def in_one_step(steps: Sequence[Routes]) -> Routes:
    """The tokens of consecutive decode steps of the same sequences, each sequence's together and in order.

    Raises ValueError when the steps are not of the same sequences.
    """
    first = steps[0]
    if len(steps) == 1:
        return first
    if any(not np.array_equal(step.offsets, first.offsets) for step in steps):
        raise ValueError("the steps have different sequences")
    ids = np.stack([step.ids for step in steps], axis=2)  # [moe_layer, sequence, step, k]
    count = None
    if first.count is not None:
        count = np.stack([step.count for step in steps], axis=2).reshape(len(ids), -1)
    return Routes(
        ids=ids.reshape(len(ids), -1, ids.shape[-1]),
        count=count,
        offsets=first.offsets * len(steps),
        tokens=np.stack([step.tokens for step in steps], axis=-1).reshape(len(first.tokens), -1),
        reused=sum(step.reused for step in steps),
        synthetic=first.synthetic,
    )
