"""Speed of training steps: DeepSeek-V3 on 2,048 GPUs within 30 s and 4 GB.

The limit is a ratio against a fixed piece of Python work timed beside it, as in `test_run.py`.
"""

import resource
import subprocess
import sys
import time

# Seconds that `yardstick` takes on the machine on which the limits were set (two cores, 2 GHz class server CPU).
YARDSTICK_S = 0.047
STEP_S, STEP_BYTES = 30.0, 4e9

RUN = """
import time
from moesim.study.step.run import run_scenario
begin = time.process_time()
run_scenario("deepseek-v3-training-h800")
print(time.process_time() - begin)
"""


def yardstick():
    """Least CPU seconds of summing 1.5 million squares in plain Python."""

    def once():
        begin = time.process_time()
        sum(i * i for i in range(1_500_000))
        return time.process_time() - begin

    return min(once() for _ in range(5))


def test_deepseek_v3_on_2048_gpus_in_thirty_seconds():
    before = yardstick()
    out = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True).stdout
    seconds = float(out) / max(before, yardstick()) * YARDSTICK_S
    print(
        f"\nDeepSeek-V3 training on 2,048 H800: {float(out):.1f} CPU s here, {seconds:.1f} s on the reference machine"
    )
    assert seconds < STEP_S
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < STEP_BYTES


def test_schedules_of_many_microbatches(benchmark):
    from moesim.workload.training.schedules import SCHEDULES

    benchmark(lambda: SCHEDULES["dualpipe"](64, 1024))
