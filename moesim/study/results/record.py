"""What every result records of the scenario that it came from, and how its numbers are written."""

from __future__ import annotations

import hashlib
import json
import math

import moesim
from moesim.spec.reading.loading import Document

SCHEMA_VERSION = 1


def scenario_hash(document: Document) -> str:
    """SHA-256 of the scenario's data, whatever its comments and layout; 16 hexadecimal digits."""
    canonical = json.dumps(document.data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def origin(document: Document, kind: str = "scenario") -> dict[str, object]:
    """The keys that the JSON of a result begins with. kind: the key of the file's name."""
    return {
        "schema_version": SCHEMA_VERSION,
        "moesim_version": moesim.__version__,
        kind: document.name,
        "scenario_hash": scenario_hash(document),
    }


def rounded(value: object) -> object:
    """Plain data with floats cut to 9 significant digits, so that equal scenarios print equal bytes."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
