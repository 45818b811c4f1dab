"""Real routing data that may lie beside a checkout; tests that need it skip where it is absent."""

from pathlib import Path

import numpy as np
import pytest

from moesim.routing.trace import RouterTrace

_FOLDER = Path(__file__).parents[3] / "shared" / "traces"
_WORKLOADS = tuple(
    f"{phase}_in{lengths}"
    for phase, all_lengths in (
        ("decode", ("1000out1000", "1800out100", "2000out100", "500out1500")),
        ("prefill", ("1000out1000", "1024", "1800out100", "2000out100", "2048", "4096", "500out1500", "512")),
    )
    for lengths in all_lengths
)


def _load(name: str):
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return np.load(path)


@pytest.fixture
def deepseek_v2_lite():
    """Task -> trace: top-6 of 64 experts, 26 layers, some 8,000 tokens (deepseek-ai/ESFT)."""

    def trace(task: str) -> RouterTrace:
        data = _load(f"esft_dsv2lite_{task}.npz")
        offsets = np.concatenate([[0], np.cumsum(data["seq_len"])])
        return RouterTrace(task, np.ascontiguousarray(data["ids"].transpose(1, 0, 2)), offsets, experts=64)

    return trace


@pytest.fixture
def deepseek_r1_loads():
    """Workload -> load [58 layers, 256 experts] as served by SGLang, of all twelve workloads."""
    return {name: _load(f"sglang_dsr1_{name}.npz")["logical_count"][3:] for name in _WORKLOADS}
