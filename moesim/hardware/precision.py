"""Number formats: how many bits an element takes with its scales, and which peak it computes at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """A storage format of tensors.

    bits: storage bits per element, scales included. compute: the datasheet peak that a product of two
    operands of this format runs at, one of ``fp32, bf16, fp8, fp4, int8`` (see `matmul_peak`).
    """

    name: str
    bits: float
    compute: str

    @property
    def bytes(self) -> float:
        """Bytes per element, scales included."""
        return self.bits / 8


# Scale overheads: FP32 scales for 1x128 (activations) FP8 blocks, 8 + 32/128 = 8.25 bits (DeepSeek-V3 report,
# section 3.3.2); NVFP4 has an FP8 scale for 16 elements, 4 + 8/16 (NVIDIA, "Introducing NVFP4"); OCP MX formats have an
# E8M0 scale for 32 elements, 4 + 8/32 and 8 + 8/32 (OCP MX specification 1.0); INT4 is group-wise with a BF16 scale for
# 128 weights, 4 + 16/128 (AWQ, GPTQ defaults).
_ALL = (
    Precision("bf16", 16, "bf16"),
    Precision("fp8", 8, "fp8"),
    Precision("fp8_block", 8.25, "fp8"),
    Precision("mxfp8", 8.25, "fp8"),
    Precision("nvfp4", 4.5, "fp4"),
    Precision("mxfp4", 4.25, "fp4"),
    Precision("int8", 8, "int8"),
    Precision("int4", 4.125, "bf16"),
    Precision("fp32", 32, "fp32"),
)
PRECISIONS: dict[str, Precision] = {p.name: p for p in _ALL}

_WIDTH = {"fp32": 4, "bf16": 3, "fp8": 2, "int8": 2, "fp4": 1}


def matmul_peak(weights: Precision, activations: Precision) -> str:
    """The peak at which a matrix product of two formats runs: that of the wider operand.

    W4A16 (mxfp4 weights, bf16 activations) computes in BF16 and W4A8 in FP8: narrow weights then save bytes, not FLOPs.
    """
    return max((weights.compute, activations.compute), key=_WIDTH.__getitem__)
