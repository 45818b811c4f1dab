"""Units: SI floats everywhere, integer picosecond ticks on the engine's clock.

Inside moesim a time is a float in seconds, a size in bytes, a rate in bytes/s or FLOP/s. Text such as
``"900 GB/s"`` exists only at the door: `parse_quantity` reads it once and nobody below sees a unit again.
Decimal and binary prefixes differ and both are honoured: ``GB`` is 1e9 bytes, ``GiB`` 2**30, ``Gb/s`` 1e9/8 bytes/s.
"""

from __future__ import annotations

import re

import numpy as np

TICKS_PER_SECOND = 10**12

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

_BYTES = {f"{p}B": f for p, f in (_DECIMAL | _BINARY).items()}
_BYTE_RATE = {f"{u}/s": f for u, f in _BYTES.items()} | {f"{p}b/s": f / 8 for p, f in _DECIMAL.items()}

# dimension -> {unit text: factor to SI}
UNITS: dict[str, dict[str, float]] = {
    "bytes": _BYTES,
    "bytes/s": _BYTE_RATE,
    "FLOP": {f"{p}FLOP": f for p, f in _DECIMAL.items()},
    "FLOP/s": {f"{p}{u}/s": f for p, f in _DECIMAL.items() for u in ("FLOP", "OP")},
    "seconds": {
        "ps": 1e-12, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0,
        "min": 60.0, "h": 3600.0, "days": 86400.0,
    },
    "Hz": {f"{p}Hz": f for p, f in _DECIMAL.items()},
    "W": {f"{p}W": f for p, f in _DECIMAL.items()},
    "USD/h": {"USD/h": 1.0},
    "USD": {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6},
    "USD/kWh": {"USD/kWh": 1.0},
    "g/kWh": {"g/kWh": 1.0, "kg/kWh": 1e3},
}  # fmt: skip

_EXAMPLE = {
    "bytes": "186 GB", "bytes/s": "900 GB/s", "FLOP": "2 TFLOP", "FLOP/s": "2.5 PFLOP/s", "seconds": "1 us",
    "Hz": "1.8 GHz", "W": "1200 W", "USD/h": "2.75 USD/h",
    "USD": "5.6 MUSD", "USD/kWh": "0.08 USD/kWh", "g/kWh": "380 g/kWh",
}  # fmt: skip

_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?\d[\d_]*(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*([A-Za-zµ/]*)\s*")


def parse_quantity(text: object, dimension: str) -> float:
    """Read a number with its unit, e.g. ``parse_quantity("900 GB/s", "bytes/s") == 9e11``.

    dimension: a key of `UNITS`. Raises ValueError with a message that says what to write.
    """
    units = UNITS[dimension]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError(f"write a number with a unit of {dimension}, e.g. '{_EXAMPLE[dimension]}'")
    match = _NUMBER_AND_UNIT.fullmatch(str(text))
    if match is None:
        raise ValueError(f"cannot read {text!r}; write a number and a unit, e.g. '{_EXAMPLE[dimension]}'")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text} has no unit; write one, e.g. '{_EXAMPLE[dimension]}'")
    if unit not in units:
        raise ValueError(f"{unit!r} is not a unit of {dimension}; write e.g. '{_EXAMPLE[dimension]}'")
    value = float(number) * units[unit]
    if value < 0:
        raise ValueError(f"{text} is negative; {dimension} cannot be")
    return value


def ticks(seconds: float) -> int:
    """Seconds as integer picoseconds, the engine's clock: equal times are equal and sums are associative."""
    return round(seconds * TICKS_PER_SECOND)


def ticks_array(seconds: np.ndarray) -> np.ndarray:
    """Element-wise `ticks`; int64 holds 106 days of picoseconds."""
    return np.rint(np.asarray(seconds, dtype=np.float64) * TICKS_PER_SECOND).astype(np.int64)


def seconds(ticks: int | np.ndarray) -> float | np.ndarray:
    """Ticks back to seconds."""
    return ticks / TICKS_PER_SECOND


def format_seconds(value: float) -> str:
    """A time in the unit people say it in: ``format_seconds(3.2e-05) == "32.0 µs"``."""
    return _format_scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("ps", 1e-12)))


def format_long(seconds: float | None) -> str:
    """A time of hours and days: ``format_long(9000) == "2.5 h"``; None is never."""
    if seconds is None:
        return "never"
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"


def format_bytes(value: float) -> str:
    """A size with a decimal prefix: ``format_bytes(1.86e11) == "186 GB"``."""
    return _format_scaled(value, (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def _format_scaled(value: float, scales: tuple[tuple[str, float], ...]) -> str:
    if value == 0:
        return f"0 {scales[-1][0]}"
    unit, factor = next(((u, f) for u, f in scales if abs(value) >= f), scales[-1])
    return f"{value / factor:.3g} {unit}"
