"""The host's launches: a figure of the host, counted by kernels, swapped with the host, gone under graphs."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost.calibration import entry_from_fit, estimate, lend, machine_for
from moesim.cost.family import default_fit
from moesim.cost.gemm import GEMM
from moesim.cost.launch import host_part, operator_seconds
from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.spec.hardware.profile import load_profile

DEVICE = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)
TINY = {"m": np.array([16.0]), "n": 512.0, "k": 512.0, "dtype": "fp8_block"}


def launched(seconds=80e-6, **changes):
    """A small product that its host launches in so many seconds."""
    plain = default_fit(GEMM)
    key = {"software": "stack 1.2.0", "kernel": "scaled", "dtype": "fp8_block"}
    range_ = {"m": (1.0, 1024.0), "n": (64.0, 8192.0), "k": (64.0, 8192.0)}
    fit = replace(
        plain, key=key, points=99, shapes=9, error=(0.05, 0.1), interval=(0.9, 1.2), range=range_,
        parameters={**plain.parameters, "t_h": seconds}, choices={**plain.choices, "host_bound": True},
    )  # fmt: skip
    fit = replace(fit, **changes)
    return replace(fit, host_s=host_part(GEMM, fit))


def hardware(name, launch, **calibration):
    host = Host(None, None, None, launch)
    return Hardware(name, name, replace(DEVICE, name=name), host, {}, calibration=calibration)


def seconds(machine):
    return float(estimate(machine, GEMM, TINY, {}).seconds[0])


SLOW = {"stack": 20e-6}
MEASURED = hardware("measured", SLOW, source="a test", date="2026-01-01", gemm=[entry_from_fit(launched(), SLOW)])


def test_a_profile_counts_launches_and_states_the_hosts_speed():
    assert MEASURED.calibration["gemm"][0]["host"] == {"t_h": 4}
    assert seconds(machine_for(MEASURED, "stack", None, graphs=False)) == pytest.approx(80e-6, rel=0.01)


def test_another_host_launches_at_its_own_speed():
    faster = replace(MEASURED, host=Host(None, None, None, {"stack": 10e-6}))
    assert seconds(machine_for(faster, "stack", None, graphs=False)) == pytest.approx(40e-6, rel=0.01)


def test_a_borrowed_kernel_takes_the_borrowers_host():
    for launch, expected in (({"stack": 40e-6}, 160e-6), ({}, 80e-6), ({"other": 1e-6}, 80e-6)):
        borrower = hardware("borrower", launch, like="measured")
        machine = machine_for(borrower, "stack", lambda _: MEASURED, graphs=False)
        assert seconds(machine) == pytest.approx(expected, rel=0.01)
    assert lend(MEASURED, hardware("x", {"stack": 40e-6}), None)["gemm"][0].host_s == {"t_h": pytest.approx(160e-6)}


def test_a_host_is_swapped_once_along_a_chain_of_siblings():
    middle, last = (
        hardware("middle", {"stack": 40e-6}, like="measured"),
        hardware("last", {"stack": 60e-6}, like="middle"),
    )
    known = {"measured": MEASURED, "middle": middle}
    assert seconds(machine_for(last, "stack", known.__getitem__, graphs=False)) == pytest.approx(240e-6, rel=0.01)


def test_graphs_drop_the_host():
    device = seconds(machine_for(MEASURED, "stack", None, graphs=True))
    assert device < 10e-6
    slower = replace(MEASURED, host=Host(None, None, None, {"stack": 1e-3}))
    assert seconds(machine_for(slower, "stack", None, graphs=True)) == device


def test_counted_launches_without_the_hosts_figure_are_refused():
    with pytest.raises(InvalidInput, match=r"host\.launch of nowhere lacks stack"):
        machine_for(replace(MEASURED, name="nowhere", host=Host(None, None, None)), "stack", None)


def test_what_a_host_launches():
    assert host_part(GEMM, launched(6e-6)) == {}  # below what an eager call takes
    assert host_part(GEMM, launched(key={"software": "stack", "kernel": "scaled_graph"})) == {}
    plain = default_fit(GEMM)
    serial = replace(plain, parameters={**plain.parameters, "t0": 160e-6})  # quantise, copy, multiply, one by one
    assert host_part(GEMM, serial) == {"t0": pytest.approx(156e-6)}
    assert host_part(GEMM, plain) == {}
    assert operator_seconds([launched(80e-6), launched(60e-6)], {}) == {"stack": pytest.approx(60e-6)}
    assert operator_seconds([launched(80e-6)], {"stack": 1e-5}) == {"stack": 1e-5}


def test_shipped_hosts_differ_less_than_their_devices():
    launch = {name: load_profile(name).host.launch_s["vllm"] for name in ("h100", "h200", "b200", "gb200_nvl72")}
    assert max(launch[x86] for x86 in ("h100", "h200", "b200")) < 1.1 * min(launch.values())
    assert 1.7 < launch["gb200_nvl72"] / launch["b200"] < 2.1  # Grace against x86
