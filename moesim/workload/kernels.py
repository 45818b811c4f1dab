"""Expert-parallel kernels as a step sees them: what they send, their latency floor, and what they take from compute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """One dispatch-and-combine implementation.

    level: at which tokens are copied, see `moesim.placement.traffic`. dispatch_floor_s, combine_floor_s: seconds that a
    call takes with one token (launch, synchronisation, permutation). cores: SMs that it occupies while it runs; 0 where
    the network or a copy engine does the work.
    """

    level: str
    dispatch_floor_s: float
    combine_floor_s: float
    cores: int = 0


# Floors: smallest measured times at one token a rank (measured by NVIDIA, published with AIConfigurator 0.12.0,
# Apache-2.0): NVLink one-sided on NVL72 18-28 µs dispatch, 31-33 µs combine; DeepEP low-latency 77 and 114 µs at EP8 on
# H800 with 128 tokens (DeepEP README). DeepEP normal uses 20 SMs by default (its README).
KERNELS: dict[str, Kernel] = {
    "nccl": Kernel("expert", 20e-6, 20e-6),
    "nvlink_one_sided": Kernel("rank", 20e-6, 32e-6),
    "deepep_normal": Kernel("node", 60e-6, 60e-6, cores=20),
    "deepep_low_latency": Kernel("expert", 30e-6, 35e-6),
    "ragged_all_to_all": Kernel("expert", 10e-6, 10e-6),
}
