"""Numbers of claims as people say them."""

from __future__ import annotations

import json
import math

from moesim.spec.studies.claim_file import Figure
from moesim.units import format_bytes, format_seconds

_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_LARGE = (("trillion ", 1e12), ("billion ", 1e9), ("million ", 1e6), ("thousand ", 1e3))


def told(value: float, unit: str) -> str:
    """A figure with its unit; a dash for NaN: a run that does not fit, or nothing over nothing."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "without limit"
    if unit == "share":
        return f"{value:.3g} %" if (value := 100 * value) < 1 else f"{value:.1f} %"
    if unit == "x":
        return f"{value:.3g}×"
    if unit == "s" and abs(value) < 600:
        return format_seconds(value)
    if unit == "s":
        return f"{value / 86400:.3g} days" if value > 172800 else f"{value / 60:.3g} min"
    if unit == "B":
        return format_bytes(value)
    if unit == "USD":
        return f"${value:,.2f}" if abs(value) < 1000 else f"${value:,.0f}"
    if unit in ("", "days", "devices"):
        return f"{value:,.4g} {unit}".strip() if abs(value) < 1e4 else f"{value:,.0f} {unit}".strip()
    if unit in ("tokens", "parameters"):
        word, factor = next(((w, f) for w, f in _LARGE if abs(value) >= f), ("", 1.0))
        return f"{value / factor:.3g} {word}{unit}"
    prefix, factor = next(((p, f) for p, f in _PREFIXES if abs(value) >= f), ("", 1.0))
    return f"{value / factor:.3g} {prefix}{unit}"


def span(values: list[float], unit: str) -> str:
    """The values of a figure over a grid: one, or the least and the largest."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return told(math.nan, unit)
    low, high = told(min(finite), unit), told(max(finite), unit)
    return low if low == high else f"{low} – {high}"


def claimed(figure: Figure) -> str:
    """What the claim says of a figure."""
    low = None if figure.least is None else told(figure.least, figure.unit)
    high = None if figure.most is None else told(figure.most, figure.unit)
    if low is None:
        return f"at most {high}"
    if high is None:
        return f"at least {low}"
    return low if low == high else f"{low} – {high}"


def amount(value: object) -> str:
    """A value of a variable."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
