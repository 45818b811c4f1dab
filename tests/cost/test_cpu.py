"""CPU processes: the same families with equations of their own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost.collective_kernels import COLLECTIVE
from moesim.cost.communication import collective
from moesim.cost.experts import routed_experts
from moesim.cost.experts_table import EXPERTS
from moesim.cost.family import default_fit, family_on, predict
from moesim.cost.gemm import GEMM, gemm
from moesim.cost.machine import Machine
from moesim.hardware.device import Device, Hardware, Host
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.hardware.topology import Link
from moesim.network.routes import build_network

DEVICE = Device("toy", "cpu", {"fp32": 100e9}, 16e9, 20e9, 1, 32e6, 2e9)
MACHINE = Machine(DEVICE, graphs=False)
FP32 = PRECISIONS["fp32"]


def test_other_devices_keep_their_equations():
    gpu = replace(DEVICE, kind="gpu")
    for family in (GEMM, EXPERTS, COLLECTIVE):
        assert family_on(family, gpu) is family
        assert family_on(family, DEVICE).name == family.name
        assert family_on(family, DEVICE).columns == family.columns
        assert family_on(family, DEVICE).parameters.keys() != family.parameters.keys()


def test_products_by_hand():
    """t0 + FLOPs at 0.9 of peak + packing at 0.3 of bandwidth; a single row is read at 0.5 of it."""
    many = gemm(MACHINE, 100, 200, 300, weights=FP32, activations=FP32).seconds
    assert many == pytest.approx(1e-5 + 2 * 100 * 200 * 300 / 90e9 + 200 * 300 * 4 / 6e9)
    one = gemm(MACHINE, 1, 200, 300, weights=FP32, activations=FP32).seconds
    assert one == pytest.approx(1e-5 + 200 * 300 * 4 / 10e9)


def test_fewer_touched_experts_cost_less():
    even, one = np.array([[4, 4, 4, 4], [16, 0, 0, 0]])
    cost = [
        routed_experts(MACHINE, load, hidden=64, ffn=32, gated=True, weights=FP32, activations=FP32)
        for load in (even, one)
    ]
    assert cost[1].seconds < cost[0].seconds


def test_collectives_by_hand():
    """An all-reduce of V bytes between two processes moves V bytes from each, here at 0.8 of 2 GB/s."""
    topology = {"kind": "pcie", "domain": 2, "link": Link(2e9, 1e-4)}
    hardware = Hardware("toy", "toy", DEVICE, Host(None, None, None), topology)
    network = build_network(build_cluster(hardware, 2))
    size = 1e6
    found = collective(MACHINE, network, "all_reduce", np.array([0, 1]), size, precision=FP32)
    wire = size / 1.6e9 * (1 + 0.5 * (size / 2e6) / (1 + size / 2e6))
    assert found.alone(np.zeros(2)) == pytest.approx(2e-4 + wire, rel=1e-6)
    rows = {"op": "all_reduce", "dtype": "float32", "ranks": 2, "message_elements": size / 4}
    columns = {name: np.array([value]) for name, value in rows.items()}
    table = predict(COLLECTIVE, DEVICE, columns, default_fit(family_on(COLLECTIVE, DEVICE))).seconds
    assert found.alone(np.zeros(2)) == pytest.approx(table[0], rel=1e-6)


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096), st.sampled_from(["m", "n", "k"]))
def test_no_product_beats_physics_and_larger_ones_take_longer(m, n, k, grown):
    """From two rows on: a single row takes another path."""
    sizes = {"m": m + 1, "n": n, "k": k}
    small = float(gemm(MACHINE, *sizes.values(), weights=FP32, activations=FP32).seconds)
    large = sizes | {grown: 2 * sizes[grown]}
    assert float(gemm(MACHINE, *large.values(), weights=FP32, activations=FP32).seconds) >= small
    assert small >= 2 * (m + 1) * n * k / 100e9
