"""Number formats out of texts such as ``MXFP8``, ``FP8-CS``, ``FP4 weights, FP8 KV`` or ``fp8_full``."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Formats:
    """weights: of the experts' products, a name of `moesim.hardware.precision`; kv: of the cache. None: not stated."""

    weights: str | None = None
    kv: str | None = None


# First match wins. Recipes of Transformer Engine: current scaling (CS) and delayed scaling (DS) have one scale a
# tensor, sub-channel (SC) 128x128 blocks, MX 32 elements.
_WEIGHTS = (
    (r"nv\s*fp4", "nvfp4"),
    (r"mx\s*fp4|fp4[- _]?mx|w4a16|w4a8", "mxfp4"),
    (r"mx\s*fp8|fp8[- _]?mx", "mxfp8"),
    (r"fp8[- _]?sc|fp8[- _]?block|block[- ]?fp8|fp8[- _]?bs", "fp8_block"),
    (r"fp8[- _]?(cs|ds|full|tensor)", "fp8"),
    (r"fp4", "fp4"),
    (r"fp8|e4m3", "fp8_any"),
    (r"int4|w4|awq|gptq", "int4"),
    (r"int8|w8a8", "int8"),
    (r"bf16|fp16|bfloat16", "bf16"),
)
_KV = (
    r"(fp8|bf16|fp16|int8)\s*kv(?:[- ]?cache)?",
    r"kv(?:[- ]?cache)?(?:[- ]?dtype)?\s*[:=]?\s*(fp8|bf16|fp16|int8)",
)


def formats(text: str) -> Formats:
    """Read the formats that a text states. ``fp4`` and ``fp8_any`` leave the scaling open."""
    lower = text.lower()
    kv = None
    for pattern in _KV:
        if match := re.search(pattern, lower):
            kv = "bf16" if match[1] in ("bf16", "fp16") else match[1]
            lower = lower[: match.start()] + lower[match.end() :]
            break
    weights = next((name for pattern, name in _WEIGHTS if re.search(pattern, lower)), None)
    return Formats(weights, kv)
