"""The file of claims: statements about MoE systems, and what decides each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model, model_validator

from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.formula import parse_formula
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.step.expected import Positive
from moesim.spec.step.scenario import Count
from moesim.spec.studies.sweep_file import Axis

__all__ = ["Changes", "Claim", "ClaimFile", "Count", "Figure", "Positive", "Run", "Seed", "Share", "measured_by"]

Changes = dict[str, JsonValue]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
UNITS = (
    "",
    "s",
    "B",
    "B/s",
    "FLOP",
    "FLOP/s",
    "W",
    "J",
    "USD",
    "tokens",
    "parameters",
    "devices",
    "days",
    "share",
    "x",
)
NAME = r"^[a-z][a-z0-9_]*$"


class Run(BaseModel):
    """What is measured. kind: one of the measures (docs/claims.md); its own keys stand beside. A value ``$name`` is
    that of the variable."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    kind: str


class Figure(Spec):
    """A number computed from the runs. formula: arithmetic over ``RUN.figure`` and variables.

    least, most: what the claim says of it, inclusive; a figure with neither is only shown. label: in words. unit:
    ``share`` is printed in percent, ``x`` as a factor.
    """

    formula: str
    unit: Literal[UNITS] = ""
    label: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def decides(self) -> bool:
        """Whether the claim says something of it."""
        return self.least is not None or self.most is not None

    @model_validator(mode="after")
    def _readable(self) -> Figure:
        try:
            parse_formula(self.formula)
        except ValueError as error:
            raise Wrong(("formula", str(error))) from None
        if self.least is not None and self.most is not None and self.least > self.most:
            raise Wrong(("most", f"is below least ({self.least})"))
        return self


class Claim(Spec):
    """A statement and what decides it.

    says: the statement, in our words. note: how it is read. over: axes of a grid of variables; those of one axis change
    together, the first one names its steps. runs: what is measured at each point. figures: what is computed from that.
    undecidable: why nothing here can decide it, instead of runs and figures.
    """

    says: Annotated[str, Field(min_length=1)]
    note: str = ""
    over: list[Axis] = Field(default_factory=list)
    runs: dict[Annotated[str, Field(pattern=NAME)], Run] = Field(default_factory=dict)
    figures: dict[Annotated[str, Field(pattern=NAME)], Figure] = Field(default_factory=dict)
    undecidable: str = ""

    @model_validator(mode="after")
    def _decided_somehow(self) -> Claim:
        if self.undecidable:
            stated = [name for name in ("over", "runs", "figures") if getattr(self, name)]
            if stated:
                raise Wrong(*((name, "an undecidable claim has none; drop one of the two") for name in stated))
        elif not any(figure.decides for figure in self.figures.values()):
            raise Wrong(("figures", "no figure has 'least' or 'most', so nothing decides; or write 'undecidable: why'"))
        return self


class ClaimFile(Spec):
    """Claims that belong together, by id. See docs/claims.md."""

    description: str = ""
    claims: Annotated[dict[str, Claim], Field(min_length=1)]


def measured_by(measures: Mapping[str, Callable]) -> type[ClaimFile]:
    """The schema of a file whose variables have their values: runs are those of known measures, their keyword-only
    arguments the keys. Measures live above this floor, so that `ClaimFile` itself takes any."""
    claim = create_model(
        "MeasuredClaim", __base__=Claim, runs=(dict[str, kinds(measures)], Field(default_factory=dict))
    )
    return create_model("MeasuredClaimFile", __base__=ClaimFile, claims=(dict[str, claim], ...))
