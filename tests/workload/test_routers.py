"""Kernels of routers: how many, and what they cost against each other."""

import numpy as np
import pytest

from moesim.cost.launch import KERNEL_S
from moesim.cost.machine import Machine
from moesim.model.architecture import Experts
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.workload.routers import GRAPH_GAP_S, ROUTERS, Gate, choice_kernels

MACHINE = Machine(load_profile("h100").device)


def gate(tokens=64, experts=None, machine=MACHINE):
    return Gate(machine, 4096, experts or Experts(routed=256, top_k=8, ffn=2048), np.array([tokens]))


def seconds(kind, look, **options):
    return float(sum(cost.seconds for cost in ROUTERS[kind](look, **options).costs)[0])


def test_launches_of_known_gates():
    def kernels(name):
        model = load_model(name)
        return choice_kernels(model.layers[model.moe_layers[0]].experts)

    assert kernels("mixtral-8x7b") == 4  # softmax, top-k, sum, division
    assert kernels("llama-4-maverick") == 2  # sigmoid, top-1
    assert kernels("deepseek-v3") == 12  # sigmoid, bias, five of the groups, top-k, gather, sum, division, scaling
    assert ROUTERS["fused"](gate()).kernels == 3
    assert ROUTERS["unfused"](gate()).kernels == 2 + 4


def test_every_launch_costs_its_fixed_time_and_gap():
    few = Experts(routed=8, top_k=2, ffn=64)
    many = Experts(routed=8, top_k=2, ffn=64, correction_bias=True, routed_scaling=2.5)
    more = seconds("unfused", gate(1, many)) - seconds("unfused", gate(1, few))
    assert more == pytest.approx(3 * (KERNEL_S + GRAPH_GAP_S), rel=0.01)  # a token's eight scores weigh nothing


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_fusing_never_loses(tokens):
    assert seconds("fused", gate(tokens)) < seconds("unfused", gate(tokens))


def test_without_graphs_the_host_sets_the_pace():
    eager = Machine(MACHINE.device, graphs=False)
    assert seconds("unfused", gate(1, machine=eager)) > seconds("unfused", gate(1))


def test_two_stages_pay_with_thousands_of_experts_only():
    small, large = Experts(routed=64, top_k=2, ffn=64), Experts(routed=8192, top_k=2, ffn=64)
    assert seconds("two_stage", gate(512, small), groups=8, kept_groups=2) > seconds("fused", gate(512, small))
    assert seconds("two_stage", gate(512, large), groups=64, kept_groups=2) < seconds("fused", gate(512, large))


def test_looking_up_costs_less_the_more_is_known():
    rates = [seconds("route_cache", gate(2048), hit_rate=rate) for rate in (0.0, 0.5, 0.9, 1.0)]
    assert rates == sorted(rates, reverse=True)
    assert seconds("fused", gate(2048)) < rates[0]  # a cache that knows nothing is a router and a lookup
    assert seconds("frozen", gate(2048)) <= rates[-1]
    assert ROUTERS["route_cache"](gate(), hit_rate=1.0).kernels == 2
