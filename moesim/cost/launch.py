"""What the host adds: launching kernels one by one, or replaying a captured graph."""

from __future__ import annotations

from moesim.cost.machine import Machine

# Fixed time of a small kernel that a graph replays: smallest fitted t0 of dense products is 1.8-2.2 µs on H100, H200,
# B200 and GB200 (measurements by NVIDIA, published with AIConfigurator 0.12.0, Apache-2.0).
KERNEL_S = 2.0e-6
# Gap between two kernels of a replayed graph: 3.4 µs a kernel that runs 2.9 µs (NVIDIA, "Getting started with CUDA
# graphs"). One eager call: launching alone costs the CPU 3-5 µs, Python and dispatch add as much; this is
# a stated default between the two and no measurement of any one stack.
GRAPH_GAP_S = 0.5e-6
EAGER_CALL_S = 7.0e-6


def launch_seconds(machine: Machine, kernels: int) -> float:
    """Seconds that launching ``kernels`` kernels in order adds beyond their own fixed times, under graphs.

    Without graphs this is the least time between kernel starts: the step takes the larger of this and its GPU time.
    """
    return kernels * (GRAPH_GAP_S if machine.graphs else EAGER_CALL_S)
