"""Softmax routers against numpy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from moesim.lab.routers import TokenContext
from moesim.lab.routers.topk import SoftmaxRouter

CONTEXT = TokenContext(torch.zeros(4, 10, dtype=torch.long))


def build(**options):
    torch.manual_seed(0)
    router = SoftmaxRouter(12, 8, 3, **options)
    torch.nn.init.normal_(router.weight)
    return router, torch.randn(40, 12)


@pytest.mark.parametrize("renormalise", [True, False])
def test_the_k_most_probable_experts_are_chosen(renormalise):
    router, x = build(renormalise=renormalise)
    routing = router(x, CONTEXT)
    probabilities = softmax(x.numpy() @ router.weight.detach().numpy().T, axis=1)
    order = np.argsort(-probabilities, axis=1)[:, :3]
    np.testing.assert_array_equal(routing.ids, order)
    gates = np.take_along_axis(probabilities, order, 1)
    gates = gates / gates.sum(1, keepdims=True) if renormalise else gates
    np.testing.assert_allclose(routing.gates.detach(), gates, rtol=1e-5)


def test_losses_are_added_with_their_weights_in_training_alone():
    router, x = build(aux_weight=0.5, sequence_weight=0.0, z_weight=0.25)
    loss = router.train()(x, CONTEXT).loss.item()
    logits = x.numpy() @ router.weight.detach().numpy().T
    probabilities = softmax(logits, axis=1)
    share = np.bincount(np.argsort(-logits, axis=1)[:, :3].ravel(), minlength=8) / 120
    aux = 8 * (share * probabilities.mean(0)).sum()
    z = np.mean(np.log(np.exp(logits).sum(1)) ** 2)
    assert loss == pytest.approx(0.5 * aux + 0.25 * z, rel=1e-4)
    assert router.eval()(x, CONTEXT).loss.item() == 0
