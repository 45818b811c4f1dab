"""What a published figure counts, and in which unit: out of its metric and its unit, both free text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0, "minutes": 60.0,
            "h": 3600.0, "hours": 3600.0, "days": 86400.0}  # fmt: skip
_NOT_SIMULATED = (
    (
        r"hit (share|rate)|occupancy|kv ?cache length|total input|cost\b|acceptance (rate|length)$",
        "no outcome of a simulated step or load",
    ),
    (r"time[- ]to[- ]train|time to (target|converge)", "how many steps training takes to a quality is not simulated"),
    (r"upper bound|theoretical|roofline", "a bound on paper, not a run"),
    (r"\busd\b|\$|price", "money is not simulated"),
    (r"loss|accuracy|perplexity|score", "quality is not simulated"),
    (r"ratio|traffic saved|share of", "no outcome of a simulated step or load"),
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """what: ``tokens`` (a rate), ``flops`` (a rate), ``mfu``, ``step`` (seconds), ``tpot``, ``ttft``, ``user``
    (tokens/s of one user), ``samples`` (a rate), ``device_time`` (of all devices, for `tokens`), ``train_time``,
    ``speedup``.

    side: tokens that count: ``output``, ``input``, ``total`` or "". per: ``device``, ``node``, ``rank`` or ``system``.
    scale: SI units in one unit of the entry. tokens: of the job that a duration is for; None where not stated.
    statistic: ``mean`` or a percentile such as ``p99``.
    """

    what: str
    side: str = ""
    per: str = "system"
    scale: float = 1.0
    tokens: float | None = None
    statistic: str = "mean"


def quantity(metric: str, unit: str) -> tuple[Quantity | None, str]:
    """(quantity, "") or (None, why it cannot be predicted)."""
    words, short = metric.lower(), unit.lower().replace(" ", "")
    for pattern, why in _NOT_SIMULATED:
        if re.search(pattern, words) and not re.search(r"gpu hours", unit.lower()):
            return None, f"{metric!r}: {why}"
    found = _rate(words, short) or _duration(words, short) or _share(words, short)
    return (found, "") if found else (None, f"a metric of {metric!r} in {unit!r} is not understood")


def _rate(words: str, unit: str) -> Quantity | None:
    if match := re.search(
        r"(?:([kmbt])(?:illion)?)?(tok(?:en)?s?)/(s|sec|day|user)", unit.replace("output", "").replace("input", "")
    ):
        scale = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[1] or ""]
        scale /= 86400.0 if match[3] == "day" else 1.0
        if "/user" in unit or "per user" in words or "single-stream" in words or "tps/user" in words:
            return Quantity("user", scale=scale, per="device")
        return Quantity("tokens", _side(words, unit), _per(words, unit), scale)
    if re.search(r"(tokens|tok)persecond|tps\b", unit):
        return Quantity("tokens", _side(words, unit), _per(words, unit))
    if match := re.search(r"([tp])flops?(?:/s)?", unit):
        return Quantity("flops", per=_per(words, unit) if "/" in unit.replace("flop/s", "") else _per(words, "/gpu"),
                        scale=1e12 if match[1] == "t" else 1e15)  # fmt: skip
    if re.search(r"(samples|sequences|seqs|requests|req|queries)/(s|sec)", unit):
        return Quantity("samples", per=_per(words, unit))
    if re.fullmatch(r"tokens/second", unit):
        return Quantity("tokens", _side(words, unit), _per(words, unit))
    return None


def _duration(words: str, unit: str) -> Quantity | None:
    if re.search(r"(?:gpu|chip|tpu|device)[- ]?hours?", unit):
        tokens = _tokens(unit.split("hours")[-1]) or _tokens(words)
        return Quantity("device_time", scale=3600.0, tokens=tokens)
    scale = _SECONDS.get(unit)
    if scale is None:
        return None
    statistic = (
        "p99" if "p99" in words else "p90" if "p90" in words else "p50" if re.search("p50|median", words) else "mean"
    )
    if re.search(r"tpot|itl|inter-token|time per output token", words):
        return Quantity("tpot", scale=scale, statistic=statistic)
    if re.search(r"ttft|time to first", words):
        return Quantity("ttft", scale=scale, statistic=statistic)
    if re.search(r"step|iteration", words):
        return Quantity("step", scale=scale)
    if re.search(r"chunk pair|forward\+backward", words):
        return None  # a part of a step
    if re.search(r"training time|time to \d|train", words):
        return Quantity("train_time", scale=scale, tokens=_tokens(words))
    return None


def _share(words: str, unit: str) -> Quantity | None:
    if unit in ("%", "percent") and "mfu" in words:
        return Quantity("mfu", scale=0.01)
    if "mfu" in words and unit in ("", "fraction", "1"):
        return Quantity("mfu")
    if re.search(r"speed-?up|gain", words) and re.search(r"\btbo\b|two[- ]batch", words):
        return Quantity("speedup", _side(words, unit), scale=0.01 if unit in ("%", "percent") else 1.0)
    return None


def _side(words: str, unit: str) -> str:
    if "input" in unit or "prefill" in words or "input tok" in words:
        return "input"
    if re.search(r"total \(in|in ?\+ ?out|total token|total throughput", words) and "output" not in words:
        return "total"
    return "output" if re.search(r"output|decode|generat|mixed", words + unit) else ""


def _per(words: str, unit: str) -> str:
    if re.search(r"/(node|server|host)", unit) or "per node" in words:
        return "node"
    if re.search(r"/(rank)", unit) or "per rank" in words:
        return "rank"
    if re.search(r"/(gpu|chip|device|tpu|xpu|accelerator)", unit) or re.search(r"per (gpu|chip|device)\b", words):
        return "device"
    return "system"


def _tokens(text: str) -> float | None:
    """``14.8T tokens``, ``/ttokens`` (a trillion), ``280B tokens``."""
    match = re.search(r"(\d+(?:\.\d+)?)?\s*([bmt])(?:illion|rillion)?\s*tok", text.lower())
    return float(match[1] or 1) * {"m": 1e6, "b": 1e9, "t": 1e12}[match[2]] if match else None
