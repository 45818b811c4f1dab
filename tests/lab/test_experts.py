"""Grouped products of the routed experts against a loop over tokens."""

import pytest
import torch

from moesim.lab.experts import RoutedExperts
from moesim.lab.routers import Routing


def looped(experts, x, routing):
    """One token and one choice at a time."""
    out = torch.zeros_like(x)
    kept = torch.ones_like(routing.ids, dtype=torch.bool) if routing.kept is None else routing.kept
    for token in range(len(x)):
        for slot in range(routing.ids.shape[1]):
            if kept[token, slot]:
                e = routing.ids[token, slot]
                gate, up = (x[token] @ experts.gate_up[e]).chunk(2)
                inner = torch.nn.functional.silu(gate) * up
                out[token] += routing.gates[token, slot] * (inner @ experts.down[e])
    return out


@pytest.mark.parametrize("drop", [False, True])
def test_grouped_equals_looped_forward_and_backward(drop):
    torch.manual_seed(0)
    experts = RoutedExperts(hidden=8, experts=5, ffn=8)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(7, 8, requires_grad=True)
    ids = torch.stack([torch.randperm(4)[:2] for _ in range(7)])  # expert 4 gets nothing
    kept = torch.rand(7, 2) > 0.4 if drop else None
    routing = Routing(ids, torch.rand(7, 2), torch.zeros(()), kept)
    results = []
    for compute in (experts, lambda x, routing: looped(experts, x, routing)):
        out = compute(x, routing)
        gradients = torch.autograd.grad(out.square().sum(), [x, experts.gate_up, experts.down])
        results.append([out, *gradients])
    for grouped, plain in zip(*results, strict=True):
        torch.testing.assert_close(grouped, plain, rtol=1e-4, atol=1e-4)
