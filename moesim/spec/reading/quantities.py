"""Annotated types for values with units: text such as ``900 GB/s`` in the file, an SI float in the value.

    class Link(Spec):
        bandwidth: BytesPerSecond      # YAML: bandwidth: 900 GB/s   value: 9e11
        latency: Seconds               # YAML: latency: 1 us         value: 1e-06

Rates must be above zero; sizes, times, power and prices may be zero. A bare number is an error that says what to write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from moesim.units import UNITS, parse_quantity


@dataclass(frozen=True, slots=True)
class Quantity:
    """Metadata of an annotated float: how the file writes it. dimension: a key of `moesim.units.UNITS`."""

    dimension: str
    example: str
    positive: bool = False

    def parse(self, value: object) -> float:
        """Text with a unit as an SI float; a float is taken as it is only where code, not a file, builds the value."""
        number = parse_quantity(value, self.dimension)
        if not math.isfinite(number):
            raise ValueError(f"{value} is not finite; write e.g. '{self.example}'")
        if self.positive and number == 0:
            raise ValueError(f"{value} must be above zero; write e.g. '{self.example}'")
        return number

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        units = "|".join(sorted(UNITS[self.dimension], key=lambda unit: (-len(unit), unit)))
        number = r"\+?[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?"
        return {
            "type": "string",
            "pattern": rf"^\s*{number}\s*({units})\s*$",
            "examples": [self.example],
            "description": f"a number with a unit of {self.dimension}",
        }


Bytes = Annotated[float, Quantity("bytes", "186 GB")]
BytesPerSecond = Annotated[float, Quantity("bytes/s", "900 GB/s", positive=True)]
Flops = Annotated[float, Quantity("FLOP", "2 TFLOP")]
FlopsPerSecond = Annotated[float, Quantity("FLOP/s", "2.5 PFLOP/s", positive=True)]
Seconds = Annotated[float, Quantity("seconds", "1 us")]
Hertz = Annotated[float, Quantity("Hz", "1.8 GHz", positive=True)]
Watts = Annotated[float, Quantity("W", "1200 W")]
UsdPerHour = Annotated[float, Quantity("USD/h", "2.75 USD/h")]
Usd = Annotated[float, Quantity("USD", "5.6 MUSD")]
UsdPerKilowattHour = Annotated[float, Quantity("USD/kWh", "0.08 USD/kWh")]
GramsPerKilowattHour = Annotated[float, Quantity("g/kWh", "380 g/kWh")]
