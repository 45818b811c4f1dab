"""HBM with offloaded experts: how many a rank can keep, and what it then needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.workload.footprint import Footprint
from moesim.workload.offload.plan import spread_capacity


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """capacity: [moe_layer] experts that a rank keeps in HBM. staging: experts that fit in the copy buffers beside."""

    capacity: np.ndarray
    staging: int


def keep_experts(needs: Footprint, sizes: np.ndarray, slots: int, staging: int, per_layer: int | None) -> Kept:
    """What a rank keeps: per_layer experts of each layer, or as many as fit beside everything else.

    needs: without offloading. sizes: [layer] bytes of an expert. slots: experts of a layer that a rank is to serve.
    """
    if per_layer is not None:
        return Kept(np.full(len(sizes), min(per_layer, slots)), staging)
    room = needs.capacity - (needs.needed - needs.experts) - staging * float(sizes.max())
    return Kept(spread_capacity(max(0, int(room // float(sizes.max()))), len(sizes), slots), staging)


def offloaded_footprint(needs: Footprint, sizes: np.ndarray, kept: Kept) -> Footprint:
    """The footprint with only the kept experts and the staging buffers in HBM."""
    return replace(needs, experts=float((kept.capacity * sizes).sum() + kept.staging * sizes.max()))
