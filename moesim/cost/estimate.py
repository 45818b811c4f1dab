"""The value every cost function hands back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMITS = ("launch", "memory", "compute")


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """Seconds of one operation, with an 80 % interval and what set them. All arrays have one shape.

    seconds, low, high: point estimate and interval. limit: index into `LIMITS` of the largest term.
    """

    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    limit: np.ndarray
