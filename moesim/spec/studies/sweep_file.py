"""The file of a sweep: a scenario, and the fields to vary."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from moesim.spec.reading.loading import Spec

Values = Annotated[list[JsonValue], Field(min_length=1)]
Axis = Annotated[dict[str, Values], Field(min_length=1)]


class SweepFile(Spec):
    """A grid over the fields of a scenario. See docs/sweeps.md.

    scenario: a shipped name, or a path from this file. set: fields to change in every run. over: axes of the grid, each
    with the fields that change together on it (lists of equal length). metric: the figure to draw.
    """

    description: str = ""
    scenario: str
    set: dict[str, JsonValue] = Field(default_factory=dict)
    over: Annotated[list[Axis], Field(min_length=1)]
    metric: str | None = None
