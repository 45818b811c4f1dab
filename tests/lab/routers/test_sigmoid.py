"""DeepSeek-V3's router against its formulas, one token at a time in numpy."""

import numpy as np
import pytest
import torch

from moesim.lab.routers import Routing, TokenContext
from moesim.lab.routers.sigmoid import SigmoidRouter

HIDDEN, EXPERTS, TOP_K, TOKENS = 12, 16, 4, 50
CONTEXT = TokenContext(torch.zeros(5, 10, dtype=torch.long))


def build(**options):
    torch.manual_seed(0)
    router = SigmoidRouter(HIDDEN, EXPERTS, TOP_K, **options)
    torch.nn.init.normal_(router.weight)
    router.bias.normal_(0, 0.3)
    return router, torch.randn(TOKENS, HIDDEN)


def plain(router, x, groups, kept_groups, scale):
    """ids and gates of one token, by sorting Python lists."""
    score = 1 / (1 + np.exp(-router.weight.detach().numpy() @ x))
    biased = score + router.bias.numpy()
    size = EXPERTS // groups
    by_group = [sorted(biased[g * size : (g + 1) * size])[-2:] for g in range(groups)]
    best = sorted(range(groups), key=lambda g: -sum(by_group[g]))[:kept_groups]
    allowed = [e for e in range(EXPERTS) if e // size in best]
    ids = sorted(allowed, key=lambda e: -biased[e])[:TOP_K]
    return ids, scale * score[ids] / score[ids].sum()


@pytest.mark.parametrize(("groups", "kept", "scale"), [(1, 1, 1.0), (4, 2, 2.5), (8, 4, 1.0)])
def test_choice_and_gates_follow_the_paper(groups, kept, scale):
    router, x = build(groups=groups, kept_groups=kept, scale=scale)
    routing = router(x, CONTEXT)
    for token in range(TOKENS):
        ids, gates = plain(router, x[token].numpy(), groups, kept, scale)
        assert routing.ids[token].tolist() == ids
        np.testing.assert_allclose(routing.gates[token].detach(), gates, rtol=1e-5)


def test_the_bias_moves_towards_the_underloaded():
    router, _ = build(speed=(0.01, 0.001))
    router.bias.zero_()
    ids = torch.tensor([[0, 1, 2, 3]] * 8 + [[0, 1, 2, 4]] * 4)  # mean load 3: 0 to 3 above it, 4 above, others empty
    routing = Routing(ids, torch.ones(12, 4), torch.zeros(()))
    router.after_step(routing, 0.0)
    assert router.bias.tolist() == pytest.approx([-0.01] * 5 + [0.01] * 11)
    router.after_step(routing, 1.0)
    assert router.bias.tolist() == pytest.approx([-0.011] * 5 + [0.011] * 11)


def test_the_bias_is_in_the_choice_but_not_in_the_gate():
    router, x = build()
    router.bias.zero_()
    router.bias[7] = 10.0
    routing = router(x, CONTEXT)
    assert (routing.ids[:, 0] == 7).all()
    assert (routing.gates.max(1).values < 1).all()


def test_balancing_spreads_tokens_that_all_like_the_same_experts():
    router, _ = build(speed=(0.01, 0.001))
    router.weight.data *= 0.2
    x = torch.randn(512, HIDDEN) + 1.0  # one large common direction
    router.bias.zero_()
    worst = []
    for step in range(150):
        routing = router(x, CONTEXT)
        load = routing.load(EXPERTS)
        worst.append((load.max() / load.mean()).item())
        router.after_step(routing, step / 150)
    assert worst[0] > 2.5
    assert worst[-1] < 1.3
