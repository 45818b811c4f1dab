"""Speed of the main job.

Limits are ratios against a fixed piece of Python work timed beside them (`yardstick`), so that they hold on a slow or
busy machine as on a fast one; the seconds that people ask for are printed in the table.
"""

import subprocess
import sys
import time

import pytest

from moesim.engine.simulate import simulate
from moesim.network.fidelity import FIDELITIES
from moesim.spec.assembly.step import assemble
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.step.run import run_scenario
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS

# Seconds that `yardstick` takes on the machine on which the limits were set (two cores, 2 GHz class server CPU).
YARDSTICK_S = 0.047


@pytest.fixture
def yardstick():
    """CPU seconds of summing 1.5 million squares in plain Python."""
    return cpu_seconds(lambda: sum(i * i for i in range(1_500_000)))


def cpu_seconds(function, rounds=3):
    """Least CPU seconds of a call, after one to warm up."""
    function()

    def once():
        begin = time.process_time()
        function()
        return time.process_time() - begin

    return min(once() for _ in range(rounds))


def test_quickstart(benchmark, yardstick):
    """At most 0.6 s where the yardstick takes 47 ms."""
    benchmark.pedantic(run_scenario, args=("quickstart",), rounds=5, warmup_rounds=1)
    assert cpu_seconds(lambda: run_scenario("quickstart")) < 0.6 * yardstick / YARDSTICK_S


def scaled(ranks):
    changes = [
        f"cluster={{hardware: gb200_nvl72, devices: {ranks}}}",
        f"parallelism={{attention_dp: {ranks}, ep: {ranks}}}",
        f"placement={{kind: replicate_hot, slots_per_rank: {max(2, -(-288 // ranks))}}}",
        "workload.sequences_per_rank=64",
    ]
    if ranks > 72:  # several racks, over InfiniBand
        changes.append("network.all_to_all=deepep_low_latency")
    return lambda: run_scenario("quickstart", changes)


def test_256_ranks(benchmark, yardstick):
    """At most 3 s where the yardstick takes 47 ms, and growing no faster than ranks^1.3 from 72 on."""
    large, small = scaled(288), scaled(72)
    benchmark.pedantic(large, rounds=3, warmup_rounds=1)
    seconds = cpu_seconds(large)
    assert seconds < 3.0 * yardstick / YARDSTICK_S
    assert seconds / cpu_seconds(small) < (288 / 72) ** 1.3


def test_engine_alone(benchmark):
    """The event simulation of the quickstart, without building its program."""
    assembly = assemble(read_scenario("quickstart"))
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["shared_expert"])
    capacity = assembly.deployment.network.capacity
    benchmark(simulate, [step.program], FIDELITIES["coflow"].rates, capacity)


# ru_maxrss of a child starts at its parent's size, so the child reads its own peak from /proc.
IN_CHILD = """
import atexit, re, sys
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr))
from moesim.cli import main
main()
"""


def process(*arguments):
    """Wall seconds and peak MB of the command line as a process of its own."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", IN_CHILD, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, int(done.stderr.split()[-1]) / 1e3


def test_whole_process(benchmark, yardstick):
    """`moesim run quickstart` from nothing: at most 4 s where the yardstick takes 47 ms, and 500 MB."""
    _, megabytes = benchmark.pedantic(process, args=("run", "quickstart", "--json"), rounds=3, warmup_rounds=1)
    assert megabytes < 500
    assert benchmark.stats.stats.min < 4.0 * yardstick / YARDSTICK_S


def test_help(benchmark, yardstick):
    """`moesim --help`: at most 0.5 s where the yardstick takes 47 ms."""
    benchmark.pedantic(process, args=("--help",), rounds=5, warmup_rounds=1)
    assert benchmark.stats.stats.min < 0.5 * yardstick / YARDSTICK_S
