"""Published figures as they are written down: free text for what ran, a number for what came out.

A prediction starts from an `Entry`, which has no value: the file's numbers stay in the table of `read_entries` and meet
predictions only when errors are computed. Numbers in notes restate results of the same run, so they are cut as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from moesim.errors import InvalidInput, Problem

_NUMBER = re.compile(r"\d[\d.,]*")
_TEXTS = ("source", "kind", "model", "hardware", "parallelism", "precision", "batch", "software", "metric", "unit")


@dataclass(frozen=True, slots=True)
class Entry:
    """What one published figure says about its run; texts are free and may be empty.

    devices: None where not stated. input_len, output_len: as written. note: without numbers.
    """

    id: str
    source: str = ""
    kind: str = ""
    model: str = ""
    hardware: str = ""
    devices: int | None = None
    parallelism: str = ""
    precision: str = ""
    batch: str = ""
    input_len: str = ""
    output_len: str = ""
    software: str = ""
    metric: str = ""
    unit: str = ""
    note: str = ""


def read_entries(path: str | Path) -> tuple[list[Entry], pd.DataFrame]:
    """(entries, table of id, source, kind, value, unit) of a YAML list of figures; value is NaN where it is no number.

    Raises InvalidInput when the file is not YAML or holds no list of mappings.
    """
    records = _records(Path(path))
    entries = [entry_of(record, number) for number, record in enumerate(records)]
    table = pd.DataFrame(
        {
            "id": [entry.id for entry in entries],
            "source": [entry.source for entry in entries],
            "kind": [entry.kind for entry in entries],
            "value": [_value(record.get("value")) for record in records],
            "unit": [entry.unit for entry in entries],
        }
    )
    return entries, table


def is_published(path: str | Path) -> bool:
    """Whether a file is a list of published figures rather than a table or a scenario: YAML, by its suffix."""
    return Path(path).suffix in (".yaml", ".yml") and Path(path).is_file()


def entry_of(record: Mapping[str, object], number: int = 0) -> Entry:
    """The entry of one mapping; unknown keys are left out, missing ones are empty."""
    texts = {name: _text(record.get(name)) for name in _TEXTS}
    return Entry(
        id=_text(record.get("id")) or f"entry-{number}",
        devices=_devices(record.get("num_devices")),
        input_len=_text(record.get("input_len")),
        output_len=_text(record.get("output_len")),
        note=_NUMBER.sub("#", _text(record.get("note"))),
        **texts,
    )


def _records(path: Path) -> list[Mapping[str, object]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(Problem(f"cannot be read: {error}", file=str(path))) from None
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise InvalidInput(Problem("is not YAML", "", str(path), *place)) from None
    if isinstance(data, Mapping):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list) or not all(isinstance(record, Mapping) for record in data):
        raise InvalidInput(
            Problem("holds no list of published figures (mappings with id, kind, value)", file=str(path))
        )
    return data


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _devices(value: object) -> int | None:
    """The number that a device count begins with: ``1814 (=226.75 nodes x 8)`` is 1814."""
    match = re.match(r"\s*(\d[\d,]*)", _text(value))
    return int(match[1].replace(",", "")) or None if match else None


def _value(value: object) -> float:
    """A plain number; NaN for ranges, texts and booleans."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        number = float(str(value).replace(",", "").strip())
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
