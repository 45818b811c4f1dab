"""Taste for near experts, and a varying number of experts."""

import numpy as np
import pytest
import torch

from moesim.lab.routers import ROUTERS, TokenContext, TopologyCost
from moesim.lab.routers.options import keep_confident

CONTEXT = TokenContext(torch.zeros(4, 25, dtype=torch.long))
COST = TopologyCost(experts=8, ranks=4, ranks_per_node=2, node=1.0, cluster=3.0)


def build(**options):
    torch.manual_seed(0)
    router = ROUTERS["topk_softmax"](12, 8, 2, **options)
    torch.nn.init.normal_(router.weight, std=0.3)
    return router.eval(), torch.randn(100, 12)


def test_cost_is_nothing_at_home_some_in_the_node_and_more_beyond():
    assert COST.matrix().tolist() == [
        [0, 0, 1, 1, 3, 3, 3, 3],
        [1, 1, 0, 0, 3, 3, 3, 3],
        [3, 3, 3, 3, 0, 0, 1, 1],
        [3, 3, 3, 3, 1, 1, 0, 0],
    ]


def test_a_penalty_keeps_choices_near_but_not_their_gates_small():
    plain, x = build()
    near, _ = build(topology=COST)
    home = torch.arange(4).repeat_interleave(25)
    cost = [COST.matrix()[home[:, None], router(x, CONTEXT).ids].mean().item() for router in (plain, near)]
    assert cost[1] < cost[0] / 2
    routing = near(x, CONTEXT)
    probabilities = torch.softmax(x @ near.weight.T, dim=1).gather(1, routing.ids)
    torch.testing.assert_close(routing.gates, probabilities / probabilities.sum(1, keepdim=True))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.85])
def test_experts_are_taken_until_they_are_sure_enough(threshold):
    probabilities = torch.tensor([[0.6, 0.2, 0.1], [0.4, 0.3, 0.2], [0.9, 0.05, 0.01]])
    expected = []
    for row in probabilities.tolist():
        total, kept = 0.0, []
        for value in row:
            kept.append(total < threshold)
            total += value
        expected.append(kept)
    assert keep_confident(probabilities, threshold).tolist() == expected


def test_easy_tokens_get_fewer_experts_with_gates_that_sum_to_one():
    router, x = build(keep=0.35)
    routing = router(x, CONTEXT)
    assert 1.0 < routing.kept.sum(1).float().mean() < 2.0
    np.testing.assert_allclose(routing.gates.detach().sum(1), 1, rtol=1e-5)
    assert (routing.gates[~routing.kept] == 0).all()
