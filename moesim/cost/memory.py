"""Work limited by HBM: norms, activations, residuals, rotary embedding, quantise passes, copies, KV-cache writes."""

from __future__ import annotations

import numpy as np

from moesim.cost.estimate import Cost
from moesim.cost.launch import KERNEL_S
from moesim.cost.machine import Machine

# Share of datasheet bandwidth that a streaming kernel reaches: fitted dense products reach 0.75-0.97 (measurements by
# NVIDIA, published with AIConfigurator 0.12.0), copies on H100 some 0.9 (BabelStream). One number for all.
STREAM_SHARE = 0.8
STREAM_INTERVAL = (0.8, 1.4)


def memory_bound(machine: Machine, moved_bytes: object, *, kernels: object = 1) -> Cost:
    """Cost of streaming ``moved_bytes`` (read + written, any shape) through HBM in ``kernels`` launches (a
    number, or one for each).

    t = kernels·t0 + bytes / (0.8·BW). Valid from 0 bytes; a working set that stays in the last-level cache is faster,
    which the interval does not cover. Zero bytes cost nothing: the kernel is not launched.
    """
    moved = np.asarray(moved_bytes, dtype=float)
    fixed = np.asarray(kernels) * KERNEL_S
    stream = moved / (STREAM_SHARE * machine.device.hbm_bytes_per_s)
    seconds = np.where(moved > 0, fixed + stream, 0.0)
    low = np.maximum(seconds * STREAM_INTERVAL[0], moved / machine.device.hbm_bytes_per_s)
    return Cost(seconds, low, seconds * STREAM_INTERVAL[1], np.where(fixed > stream, 0, 1))
