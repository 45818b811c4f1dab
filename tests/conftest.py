"""Property tests draw the same examples on every run and everywhere, and are not judged by the clock."""

import pytest
from hypothesis import settings

settings.register_profile("moesim", derandomize=True, deadline=None)
settings.load_profile("moesim")


@pytest.fixture(scope="session")
def plan_text():
    """A capacity plan that is searched in a second."""
    return """
model: gpt-oss-120b
load: {rate: 8, input: {kind: fixed, tokens: 500}, output: {kind: fixed, tokens: 100}, requests: 60}
slo: {ttft: 1 s, tpot: 40 ms}
search:
  - hardware: h100
    software: vllm
    devices: [1, 2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
routing: {kind: lognormal, sigma: 0.8}
finalists: 0
"""
