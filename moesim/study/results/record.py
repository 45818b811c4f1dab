"""What every result records of the scenario that it came from."""

from __future__ import annotations

import hashlib
import json

from moesim.spec.loading import Document

SCHEMA_VERSION = 1


def scenario_hash(document: Document) -> str:
    """SHA-256 of the scenario's data, whatever its comments and layout; 16 hexadecimal digits."""
    canonical = json.dumps(document.data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
