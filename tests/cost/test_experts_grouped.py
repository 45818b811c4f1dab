"""Grouped products behind a dispatch that sorts: by hand, against DeepGEMM's own figures, and where they apply."""

import numpy as np
import pytest

from moesim.cost.calibration import machine_for
from moesim.cost.experts import routed_experts
from moesim.cost.experts_grouped import between
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS
from moesim.spec.hardware.profile import load_profile

H100 = Device("h100", "gpu", {"bf16": 989.4e12, "fp8": 1978.9e12}, 80e9, 3.35e12, 132)
SHAPE = {"hidden": 7168, "ffn": 2048, "gated": True}
FP8 = {"weights": PRECISIONS["fp8_block"], "activations": PRECISIONS["fp8_block"]}


def _seconds(machine, tokens, **changes):
    return float(routed_experts(machine, np.array([tokens]), **(SHAPE | FP8 | {"grouped": True} | changes)).seconds[0])


def test_bytes_between_the_products_by_hand():
    rows = {"pairs": 10.0, "tokens": 4.0, "hidden_size": 100.0, "width": 8.0, "gated": 1.0, "dtype": "fp8_block"}
    narrow = PRECISIONS["fp8_block"].bytes
    activation = 10 * 8 * (2 * 2 + narrow)
    assert between(rows | {"scattered": 0.0}) == pytest.approx(activation)
    # every pair read and written in FP8; outputs read, and the sums of 4 tokens written, in BF16
    assert between(rows | {"scattered": 1.0}) == pytest.approx(activation + 2 * 1000 * narrow + (1000 + 400) * 2)


def test_without_routing_they_are_faster_than_kernels_that_sort():
    machine = Machine(H100)
    for tokens in ([8] * 9, [256] * 4, [4096] * 9):
        bare = _seconds(machine, tokens)
        assert bare < _seconds(machine, tokens, grouped=False)
        assert bare < _seconds(machine, tokens, entering=np.array([sum(tokens)]))  # copied to experts, and added up
        assert bare > 6 * 7168 * 2048 * sum(tokens) / 1978.9e12  # no faster than the peak


def test_other_formats_run_as_before():
    bf16 = {"weights": PRECISIONS["bf16"], "activations": PRECISIONS["bf16"]}
    assert _seconds(Machine(H100), [64] * 8, **bf16) == _seconds(Machine(H100), [64] * 8, grouped=False, **bf16)


def test_a_kernel_can_be_named():
    machine = machine_for(load_profile("b200"), "sglang", load_profile)
    nvfp4 = {"weights": PRECISIONS["nvfp4"], "activations": PRECISIONS["nvfp4"]}
    one, other = (_seconds(machine, [64] * 8, kernel=kernel, **nvfp4) for kernel in ("cutlass", "min_latency"))
    assert one != other
    assert _seconds(machine, [64] * 8, **nvfp4) in (one, other)


@pytest.mark.parametrize(
    ("tokens", "flops_per_s", "tolerance"),
    [
        # DeepGEMM README, H800: first and second product, harmonic mean by FLOPs (2 : 1)
        ([4096] * 8, 3 / (2 / 1346e12 + 1 / 1214e12), 0.15),
        ([256] * 4, 3 / (2 / 932e12 + 1 / 815e12), 0.2),
        ([512] * 2, 3 / (2 / 1040e12 + 1 / 916e12), 0.3),
    ],
)
def test_products_reach_what_deepgemm_publishes(tokens, flops_per_s, tolerance):
    machine = machine_for(load_profile("h800"), "sglang", load_profile)
    published = 6 * 7168 * 2048 * sum(tokens) / flops_per_s
    activation = 6e-6 + sum(tokens) * 2048 * (4 + PRECISIONS["fp8_block"].bytes) / (0.8 * 3.35e12)
    assert _seconds(machine, tokens) - activation == pytest.approx(published, rel=tolerance)
