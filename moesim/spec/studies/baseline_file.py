"""The file of a baseline: what scenarios and measured anchors gave, and how far each may move."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue
from pydantic_core import core_schema

from moesim.spec.reading.loading import Spec

LAYOUT = 1  # of the file; raised when an old file can no longer be read

_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class _Percent:
    """A share written in percent: ``2 %`` in the file, 0.02 in the value."""

    def parse(self, text: object) -> float:
        match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"cannot read {text!r}; write percent, e.g. '2 %'")
        return float(match[1]) / 100

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]*)?\s*%\s*$", "examples": ["2 %"]}


Percent = Annotated[float, _Percent()]
Number = Annotated[float, Field(strict=False)]


class BaselineRun(Spec):
    """A scenario and what it gave. metrics: figures of ``--json`` by dotted name, each compared; write one with any
    number to have it recorded. breakdown_s: seconds of each operation, to say where a drift comes from.

    tolerance: share by which a figure may move; tolerances: of single figures.
    """

    scenario: str
    set: dict[str, JsonValue] = Field(default_factory=dict)
    note: str = ""
    tolerance: Percent | None = None
    tolerances: dict[str, Percent] = Field(default_factory=dict)
    status: Literal["ok", "infeasible", "invalid"] = "ok"
    metrics: dict[str, Number | None] = Field(default_factory=dict)
    breakdown_s: dict[str, Number] = Field(default_factory=dict)


class BaselineAnchor(Spec):
    """A measured figure and the scenario that predicts it. measured: in the unit of the metric (seconds, tokens/s).

    error: |predicted / measured − 1| as recorded. tolerance: by how much of the measured value the error may grow.
    """

    scenario: str
    set: dict[str, JsonValue] = Field(default_factory=dict)
    metric: str
    measured: Annotated[float, Field(gt=0)]
    source: str
    note: str = ""
    tolerance: Percent | None = None
    error: Number | None = None


class BaselineTable(Spec):
    """A table of measured kernels (docs/measured-tables.md): a shipped sample by name, or a path.

    errors: median_ape, p90_ape and refused as recorded. tolerance: by how much an error may grow.
    """

    table: str
    note: str = ""
    tolerance: Percent | None = None
    errors: dict[str, Number] = Field(default_factory=dict)


class BaselineFile(Spec):
    """What `moesim check` compares with. See docs/ci.md.

    tolerance: of runs that state none. anchor_tolerance: of anchors and tables that state none.
    """

    schema_version: Literal[1]
    moesim_version: str
    tolerance: Percent = 0.02
    anchor_tolerance: Percent = 0.01
    runs: dict[str, BaselineRun] = Field(default_factory=dict)
    anchors: dict[str, BaselineAnchor] = Field(default_factory=dict)
    tables: dict[str, BaselineTable] = Field(default_factory=dict)
