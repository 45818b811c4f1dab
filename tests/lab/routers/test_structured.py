"""Hierarchical routing, Mixture-of-Depths and Chain-of-Experts."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from moesim.errors import InvalidInput
from moesim.lab.reference import MoELayer
from moesim.lab.routers import ROUTERS, TokenContext
from moesim.lab.routers.depth import best_of_sequences

CONTEXT = TokenContext(torch.zeros(4, 10, dtype=torch.long))


def build(name, experts, top_k, **options):
    torch.manual_seed(0)
    router = ROUTERS[name](12, experts, top_k, **options)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    return router.eval(), torch.randn(40, 12)


def test_hierarchical_gates_are_products_of_both_levels():
    router, x = build("hierarchical", 12, 4, groups=3, kept_groups=2)
    routing = router(x, CONTEXT)
    outer = softmax(x.numpy() @ router.group_weight.detach().numpy().T, axis=1)
    inner = softmax((x.numpy() @ router.weight.detach().numpy().T).reshape(40, 3, 4), axis=2)
    for token in range(40):
        groups = np.argsort(-outer[token])[:2]
        expected = {}
        for group in groups:
            best = np.argsort(-inner[token, group])[:2]
            for expert in best:
                gate = outer[token, group] / outer[token, groups].sum()
                expected[group * 4 + expert] = gate * inner[token, group, expert] / inner[token, group, best].sum()
        got = dict(zip(routing.ids[token].tolist(), routing.gates[token].tolist(), strict=True))
        assert got == pytest.approx(expected, rel=1e-4)


def test_hierarchical_shapes_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="cannot give 4 choices from 3 groups"):
        build("hierarchical", 12, 4, groups=3, kept_groups=3)


def test_half_of_each_sequence_is_routed_in_training():
    router, x = build("mixture_of_depths", 8, 2, share=0.5)
    routing = router.train()(x, CONTEXT)
    rank = (x @ router.depth_weight.T).squeeze(1)
    for sequence in range(4):
        rows = slice(10 * sequence, 10 * sequence + 10)
        best = set(np.argsort(-rank[rows].detach().numpy())[:5])
        assert set(routing.kept[rows, 0].nonzero().squeeze(1).tolist()) == best
    assert (routing.kept[:, 0] == routing.kept[:, 1]).all()
    inner = router.inner(x, CONTEXT)
    torch.testing.assert_close(routing.gates, inner.gates * torch.sigmoid(rank)[:, None])


def test_outside_training_the_predictor_decides_token_by_token():
    router, x = build("mixture_of_depths", 8, 2)
    assert router(x, CONTEXT).kept[:, 0].equal((x @ router.depth_weight.T).squeeze(1) > 0)


def test_best_of_sequences_counts_each_sequence():
    rank = torch.tensor([5.0, 1, 4, 2, 9, 8, 7, 6])
    assert best_of_sequences(rank, (2, 4), 0.5).tolist() == [True, False, True, False, True, True, False, False]


def test_a_chain_feeds_each_pass_with_the_last_ones_result(small_config):
    torch.manual_seed(0)
    layer = MoELayer(small_config(router="chain_of_experts", shared_ffn=0)).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(40, 16)
    out, (first, second) = layer(x, CONTEXT)
    assert first.ids.shape == second.ids.shape == (40, 1)  # two passes share top_k = 2
    middle = x + layer.routed(x, layer.router.passes[0](x, CONTEXT))
    again = layer.router.passes[1](middle, CONTEXT)
    assert again.ids.equal(second.ids)
    torch.testing.assert_close(x + out, middle + layer.routed(middle, again), rtol=1e-4, atol=1e-5)


def test_a_chain_must_divide_its_choices():
    with pytest.raises(InvalidInput, match="3 passes do not divide top_k = 4"):
        build("chain_of_experts", 8, 4, passes=3)
