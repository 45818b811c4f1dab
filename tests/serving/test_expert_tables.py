"""Seconds of experts from their loads: the busiest rank by hand, and windows in time or side by side."""

from dataclasses import dataclass

import numpy as np
import pytest

from moesim.serving.expert_tables import expert_tables
from moesim.serving.grids import TOKENS
from moesim.serving.kernels import kernel_tables
from moesim.serving.loads import DrawnLoads
from moesim.serving.stack import StackSteps, kernel_counts
from moesim.spec.serving.constants import load_fitted
from moesim.study.validation.serving.rows import Configuration, deployment


@dataclass
class TwoWindows:
    """Half of all tokens on one rank's first expert in window 0; all of them there in window 1."""

    changing: bool = True

    def pairs(self, phase, placed, rows):
        ep = placed.parallelism.ep
        experts = placed.model.layers[placed.model.moe_layers[rows[0]]].experts
        found = np.zeros((TOKENS.size, 2, 1, ep, experts.routed // ep))
        every = TOKENS * experts.top_k
        found[:, 0, 0, 0, 0] = found[:, 0, 0, 1, 0] = every / 2
        found[:, 1, 0, 0, 0] = every
        return found


@pytest.fixture(scope="module")
def placed():
    return deployment(Configuration("h100", "mixtral-8x7b", "vllm", "fp8", 2, 2, 1))


def test_the_busiest_rank_by_hand(placed):
    tables = expert_tables(placed, TwoWindows(), "decode")
    model, device = placed.model, placed.machine.device
    layers, experts = len(model.moe_layers), model.layers[0].experts
    weights = 3 * model.hidden * experts.ffn
    at = np.flatnonzero(TOKENS == 64)[0]
    assert tables.hottest[:, at].tolist() == [1.0, 2.0]
    # One expert's weights in either window; twice the products in the second.
    assert tables.bytes_s[:, at] == pytest.approx(layers * weights / device.hbm_bytes_per_s, rel=0.02)
    flops = layers * 2 * 64 * experts.top_k * weights / device.peak["fp8"]
    assert tables.flops_s[:, at] == pytest.approx([flops / 2, flops])


def test_windows_side_by_side_are_averaged(placed):
    apart, joined = (expert_tables(placed, TwoWindows(changing), "decode") for changing in (True, False))
    assert joined.flops_s.shape == (1, TOKENS.size)
    assert joined.flops_s[0] == pytest.approx(apart.flops_s.mean(axis=0))


def test_steps_of_a_stack_go_through_the_windows(placed):
    constants = load_fitted().stacks["vllm"]
    steps = StackSteps(kernel_tables(placed, TwoWindows()), kernel_counts(placed), constants)
    assert steps.draws == 2
    assert [steps.hottest(64, 64, draw) for draw in range(2)] == [1.0, 2.0]
    first, second = (steps.decode_s(64, 64, 64 * 1000.0, draw) for draw in range(2))
    tables = expert_tables(placed, TwoWindows(), "decode").flops_s[:, np.flatnonzero(TOKENS == 64)[0]]
    assert second - first == pytest.approx(constants.expert_flops * (tables[1] - tables[0]))


def test_drawn_loads_have_no_windows_in_time(placed):
    assert (
        StackSteps(kernel_tables(placed, DrawnLoads()), kernel_counts(placed), load_fitted().stacks["vllm"]).draws == 1
    )
