"""Speed of the cost functions that a step calls."""

import numpy as np

from moesim.cost.calibration import machine_for
from moesim.cost.experts import routed_experts
from moesim.hardware.precision import PRECISIONS
from moesim.spec.hardware.profile import load_profile


def test_experts_of_a_whole_step(benchmark):
    """58 layers on 72 ranks with 4 slots each, in one call."""
    machine = machine_for(load_profile("gb200_nvl72"), "trtllm", load_profile)
    tokens = np.random.default_rng(0).poisson(20, (58, 72, 4))
    nvfp4 = PRECISIONS["nvfp4"]
    cost = benchmark(
        routed_experts, machine, tokens, hidden=7168, ffn=2048, gated=True, weights=nvfp4, activations=nvfp4
    )
    assert cost.seconds.shape == (58, 72)
