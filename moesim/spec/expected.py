"""The published figure that a scenario stands for, and what links the two: shared by all kinds of scenario."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moesim.spec.loading import Spec

Positive = Annotated[float, Field(gt=0)]


class Expected(Spec):
    """A published figure. It never changes what a scenario simulates; `moesim validate` compares the two.

    id, source: of the entry. metric, unit: as published. stack: whose calibration applies. age: years from the
    software's release to April 2026. kept, kept_tokens: tokens that users, and one user, get for each that a step
    computes, and in a step, where drafts are thrown away. devices: of the whole system where the scenario is a part of
    it. assumed: what the source does not state.
    """

    id: str
    source: str
    metric: str
    value: float
    unit: str
    stack: str = ""
    age: float | None = None
    kept: Positive = 1.0
    kept_tokens: Positive = 1.0
    devices: Annotated[int, Field(ge=1)] | None = None
    assumed: tuple[str, ...] = ()
