"""GShard, Switch and noisy top-k against their papers' formulas."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr, softmax

from moesim.lab.routers import ROUTERS, TokenContext
from moesim.lab.routers.noisy import load_estimate


def build(name, top_k=2, **options):
    torch.manual_seed(0)
    router = ROUTERS[name](12, 8, top_k, **options)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return router, torch.randn(400, 12)


def context(seed=0):
    return TokenContext(torch.zeros(4, 100, dtype=torch.long), torch.Generator().manual_seed(seed))


def test_switch_takes_the_best_expert_with_its_probability():
    router, x = build("switch", top_k=4)
    routing = router.eval()(x, context())
    probabilities = softmax(x.numpy() @ router.weight.detach().numpy().T, axis=1)
    np.testing.assert_array_equal(routing.ids[:, 0], probabilities.argmax(1))
    np.testing.assert_allclose(routing.gates[:, 0].detach(), probabilities.max(1), rtol=1e-5)


def test_gshard_uses_the_second_expert_as_often_as_twice_its_gate():
    router, x = build("gshard_top2")
    x = x[:1].repeat(400, 1)  # one token 400 times: its second expert is a coin of known bias
    routing = router.train()(x, context())
    probabilities = np.sort(softmax(x[0].numpy() @ router.weight.detach().numpy().T))[::-1][:2]
    gates = probabilities / probabilities.sum()
    np.testing.assert_allclose(routing.gates[0].detach(), gates, rtol=1e-5)
    assert routing.kept[:, 0].all()
    assert routing.kept[:, 1].float().mean().item() == pytest.approx(min(1, 2 * gates[1]), abs=0.08)
    assert router.eval()(x, context()).kept is None


def test_gshard_balances_first_choices():
    router, x = build("gshard_top2", aux_weight=1.0)
    probabilities = softmax(x.numpy() @ router.weight.detach().numpy().T, axis=1)
    share = np.bincount(probabilities.argmax(1), minlength=8) / 400
    assert router.train()(x, context()).loss.item() == pytest.approx(
        8 * (share * probabilities.mean(0)).sum(), rel=1e-5
    )


def test_noisy_gates_are_a_softmax_over_the_kept():
    router, x = build("noisy_topk", top_k=3)
    logits = x.numpy() @ router.weight.detach().numpy().T
    quiet = router.eval()(x, context())
    np.testing.assert_array_equal(quiet.ids, np.argsort(-logits, axis=1)[:, :3])
    np.testing.assert_allclose(quiet.gates.detach(), softmax(-np.sort(-logits, axis=1)[:, :3], axis=1), rtol=1e-4)
    noisy = router.train()(x, context(0))
    assert not torch.equal(noisy.ids, quiet.ids)
    assert torch.equal(noisy.ids, router(x, context(0)).ids)
    assert not torch.equal(noisy.ids, router(x, context(1)).ids)


def test_load_estimate_is_the_chance_of_being_chosen_again():
    torch.manual_seed(1)
    clean, scale = torch.randn(5, 6), torch.rand(5, 6) + 0.5
    noisy = clean + scale * torch.randn(5, 6)
    expected = np.zeros(6)
    for token in range(5):
        for expert in range(6):
            others = np.sort(np.delete(noisy[token].numpy(), expert))[::-1]
            expected[expert] += ndtr((clean[token, expert].item() - others[1]) / scale[token, expert].item())
    np.testing.assert_allclose(load_estimate(clean, noisy, scale, top_k=2), expected, rtol=1e-5)


def test_gumbel_noise_samples_from_the_softmax():
    router, x = build("noisy_topk", top_k=1, gumbel=True, importance_weight=0.0)
    x = x[:1].repeat(4000, 1)
    drawn = router.train()(x, TokenContext(torch.zeros(1, 4000), torch.Generator().manual_seed(0))).ids[:, 0]
    share = torch.bincount(drawn, minlength=8) / 4000
    np.testing.assert_allclose(share, softmax(x[0].numpy() @ router.weight.detach().numpy().T), atol=0.03)
