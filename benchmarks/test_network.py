"""Speed and memory of collectives at pod scale.

Run with ``pytest benchmarks/test_network.py``; ``python benchmarks/network_scaling.py`` draws time against ranks.
"""

import resource
import subprocess
import sys

import numpy as np
import pytest

from moesim.hardware.fabrics import nvlink, torus
from moesim.hardware.topology import Link
from moesim.network.collectives import all_to_all
from moesim.network.routes import build_network
from moesim.spec.hardware.profile import load_profile


def switch(devices):
    """One NVLink switch domain of any size, 18 planes at 900 GB/s as in NVL72."""
    hardware = load_profile("gb200_nvl72")
    return build_network(nvlink(hardware, devices, domain=devices, server=4, planes=18, link=Link(900e9, 0.6e-6)))


def cube(*shape, slices=1):
    """Slices of a TPU v5p, any shape."""
    hardware = load_profile("tpu_v5p")
    chips = int(np.prod(shape))
    arguments = {k: v for k, v in hardware.topology.items() if k != "kind"}
    arguments |= {"pod": (64, 64, 64), "shapes": (tuple(sorted(shape)),), "cube": None, "largest_slice": None}
    return build_network(torus(hardware, chips * slices, **arguments, shape=shape, slices=slices))


def uneven(ranks, groups=1):
    """Lognormal bytes between all pairs."""
    return np.random.default_rng(0).lognormal(0, 1, (groups, ranks, ranks)) * 1e5


@pytest.mark.parametrize("build", [lambda: switch(1024), lambda: cube(8, 8, 16)], ids=["switch", "torus 8x8x16"])
def test_uneven_all_to_all_of_1024_ranks_in_50_ms(benchmark, build):
    network, traffic = build(), uneven(1024)
    transfer = benchmark(lambda: all_to_all(network, np.arange(1024), traffic))
    assert transfer.wire_s > 0
    assert benchmark.stats["min"] <= 50e-3


@pytest.mark.parametrize("name", ["switch(1024)", "cube(8, 8, 16)"])
def test_uneven_all_to_all_of_1024_ranks_in_300_mb_as_a_whole_process(name):
    code = (
        "import numpy as np, re, test_network as b\n"
        f"b.all_to_all(b.{name}, np.arange(1024), b.uneven(1024))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"  # ru_maxrss starts at the parent's
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="benchmarks")
    assert int(done.stdout) * 1024 <= 300e6


@pytest.mark.parametrize("build", [lambda: switch(4096), lambda: cube(16, 16, 16)], ids=["switch", "torus 16x16x16"])
def test_uneven_all_to_all_of_4096_ranks_in_2_s(benchmark, build):
    network, traffic = build(), uneven(4096)
    benchmark.pedantic(lambda: all_to_all(network, np.arange(4096), traffic), rounds=3)
    assert benchmark.stats["min"] <= 2


def test_a_pod_of_35_slices_exchanges_in_02_s(benchmark):
    """8,960 chips as 35 slices of 16x4x4, each a group of its own with its own traffic, one collective together."""
    network, traffic = cube(16, 4, 4, slices=35), uneven(256, groups=35)
    ranks = np.arange(8960).reshape(35, 256)
    transfer = benchmark(lambda: all_to_all(network, ranks, traffic))
    assert transfer.group.max() == 34
    assert benchmark.stats["min"] <= 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 <= 4e9
