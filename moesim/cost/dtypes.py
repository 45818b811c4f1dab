"""The dtype names of measured tables and the number formats of their operands."""

from __future__ import annotations

from moesim.errors import InvalidInput
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS, Precision, matmul_peak

# table dtype -> (weights, activations). `fp8_block` has a scale for 128x128 weights and 1x128 activations; NVFP4 one
# for 16 elements; MXFP4 and MXFP8 one for 32. `default` (all-to-all tables) is what the stack sends, taken as bf16.
_FORMATS: dict[str, tuple[str, str]] = {
    "bfloat16": ("bf16", "bf16"),
    "float16": ("bf16", "bf16"),
    "half": ("bf16", "bf16"),
    "default": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_static": ("fp8", "fp8"),
    "fp8_block": ("fp8_block", "fp8_block"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "fp4": ("nvfp4", "nvfp4"),
    "mxfp8": ("mxfp8", "mxfp8"),
    "mxfp4": ("mxfp4", "mxfp4"),
    "w4a16_mxfp4": ("mxfp4", "bf16"),
    "w4a8_mxfp4_mxfp8": ("mxfp4", "mxfp8"),
    "w4a8_mxfp4_fp8": ("mxfp4", "fp8"),
    "w4afp8": ("int4", "fp8"),
    "int8": ("int8", "int8"),
    "sq": ("int8", "int8"),
    "int8_wo": ("int8", "bf16"),
    "int4_wo": ("int4", "bf16"),
    "float32": ("fp32", "fp32"),
}
DTYPES = tuple(_FORMATS)


def formats(dtype: str) -> tuple[Precision, Precision]:
    """(weights, activations) of a table's dtype; also takes the names of `PRECISIONS`. Raises InvalidInput."""
    weights, activations = _FORMATS.get(dtype, (dtype, dtype))
    if weights not in PRECISIONS:
        raise InvalidInput(f"dtype {dtype!r} is unknown; write one of {', '.join(sorted(_FORMATS))}")
    return PRECISIONS[weights], PRECISIONS[activations]


def table_dtype(weights: Precision, activations: Precision) -> str:
    """The table's name for a pair of formats, or ``weights/activations`` where no table has the pair."""
    pair = (weights.name, activations.name)
    return next((name for name, known in _FORMATS.items() if known == pair), "/".join(pair))


def peak(device: Device, weights: Precision, activations: Precision) -> float:
    """Dense FLOP/s of a product of two formats. Raises InvalidInput when the chip lacks the format."""
    compute = matmul_peak(weights, activations)
    if compute not in device.peak:
        has = ", ".join(sorted(device.peak))
        raise InvalidInput(
            f"{device.name} has no {compute} matrix units ({weights.name} x {activations.name}); it has {has}"
        )
    return device.peak[compute]


def dtype_distance(one: str, other: str) -> float:
    """0 for equal dtypes, else 1 + the difference in bits: which kernel stands in for another.

    Activations weigh four times as much as weights: they decide which matrix units run.
    """
    if one == other:
        return 0.0
    pairs = []
    for dtype in (one, other):
        parts = dtype.split("/") if "/" in dtype else _FORMATS.get(dtype, (dtype, dtype))
        pairs.append([PRECISIONS[part].bits if part in PRECISIONS else 16.0 for part in parts])
    (weights, activations), (other_weights, other_activations) = pairs
    return 1.0 + abs(weights - other_weights) + 4 * abs(activations - other_activations)
