"""The published figure that a scenario stands for, and what links the two: shared by all kinds of scenario."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moesim.spec.reading.loading import Spec

Positive = Annotated[float, Field(gt=0)]


class Expected(Spec):
    """A published figure. It never changes what a scenario simulates; `moesim validate` compares the two.

    id, source: of the entry. metric, unit: as published. stack: whose calibration applies. age: years from the
    software's release to April 2026. kept: tokens that a user gets in a step, where drafts are kept. devices: of the
    whole system where the scenario is a part of it. assumed: what the source does not state.
    """

    id: str
    source: str
    metric: str
    value: float
    unit: str
    stack: str = ""
    age: float | None = None
    kept: Positive = 1.0
    devices: Annotated[int, Field(ge=1)] | None = None
    assumed: tuple[str, ...] = ()
