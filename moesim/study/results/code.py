"""A hash of the code that makes results: what other code kept is never taken for a result of this one."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import moesim

# Rooms that read results or draw them, and do not make them.
_READERS = ("cli", "report", "lab", "study/claims", "study/entries", "study/comparison", "study/regression_check")
_CONSTANTS = "serving/*.yaml"  # those of profiles and models are in files that inputs name


@lru_cache(maxsize=1)
def code_hash() -> str:
    """16 hexadecimal digits of the modules and constants that a simulated result depends on."""
    folder = Path(moesim.__file__).parent
    read = tuple(folder / room for room in _READERS)
    modules = [path for path in folder.rglob("*.py") if not any(path.is_relative_to(room) for room in read)]
    found = hashlib.sha256()
    for path in sorted([*modules, *folder.glob(_CONSTANTS)]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
