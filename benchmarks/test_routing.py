"""Speed and memory of traces: opening, gathering, replaying and examining them.

Run with ``pytest benchmarks/test_routing.py -s``. The large trace (61 layers, 1 M tokens, top-8 of 256: 488 MB) is
written to pytest's temporary folder once.
"""

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

from moesim.routing.health import health
from moesim.routing.replay import replay
from moesim.routing.trace import RouterTrace, open_trace, write_trace

LAYERS, TOKENS, TOP_K, EXPERTS = 61, 1_000_000, 8, 256


def fabricate(tokens: int, layers: int = LAYERS, sequence: int = 800) -> RouterTrace:
    """Random valid choices, gates and all; what they are does not matter to speed."""
    rng = np.random.default_rng(0)
    rows = np.argsort(rng.random((4096, EXPERTS)), axis=1)[:, :TOP_K].astype(np.uint8)
    ids = np.empty((tokens, layers, TOP_K), dtype=np.uint8)
    for layer in range(layers):
        ids[:, layer] = rows[rng.integers(0, len(rows), tokens)]
    offsets = np.unique(np.append(np.arange(0, tokens, sequence), tokens))
    return RouterTrace("big", ids, offsets, EXPERTS, groups=8, synthetic=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("traces") / "big.safetensors", fabricate(TOKENS))


def test_a_488_mb_trace_opens_in_02_s(large, benchmark):
    trace = benchmark.pedantic(open_trace, args=(large,), rounds=5)
    assert trace.ids.nbytes == 488_000_000
    assert benchmark.stats["max"] <= 0.2


def test_a_window_of_256_tokens_is_gathered_in_50_us(large, benchmark):
    ids = open_trace(large).ids
    windows = itertools.cycle(np.sort(np.random.default_rng(0).integers(TOKENS, size=(2000, 256)), axis=1))
    assert benchmark(lambda: np.take(ids, next(windows), axis=0)).shape == (256, LAYERS, TOP_K)
    assert benchmark.stats["median"] <= 50e-6


@pytest.mark.parametrize("layers", [3, 61])
def test_a_step_of_72_ranks_is_replayed_in_40_ms(benchmark, layers):
    trace = fabricate(30_000, layers, sequence=256)
    options = {"moe_layers": 58, "experts": EXPERTS, "top_k": TOP_K, "ranks": 72, "tokens_per_rank": 128}
    routes = benchmark(lambda: replay(trace, phase="decode", rng=np.random.default_rng(0), **options))
    assert routes.ids.shape == (58, 72 * 128, TOP_K)
    assert benchmark.stats["median"] <= 40e-3


def test_health_of_10_m_token_layers_takes_10_s(benchmark):
    trace = fabricate(10_000_000 // LAYERS + 1)
    benchmark.pedantic(health, args=(trace,), rounds=1)
    assert benchmark.stats["max"] <= 10


def test_examining_a_large_trace_stays_under_600_mb_of_anonymous_memory(large):
    """In a process of its own; pages of the mapped file are not anonymous. Prints how long it takes."""
    program = (
        "import sys; from moesim.study.inspection.trace_health import examine; examine(sys.argv[1]);"
        "print(max(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')))"
    )
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", program, str(large)], capture_output=True, text=True, check=True)
    print(f"{time.perf_counter() - began:.0f} s, {int(told.stdout) / 1e3:.0f} MB")
    assert int(told.stdout) * 1024 < 600e6
