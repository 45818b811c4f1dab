"""Hash, random, k-means and BASE routers."""

from itertools import permutations

import numpy as np
import pytest
import torch

from moesim.errors import InvalidInput
from moesim.lab.routers import ROUTERS, Routing, TokenContext
from moesim.lab.routers.base import balanced_assignment, sinkhorn
from moesim.lab.routers.fixed import mixed

MASK = (1 << 64) - 1


def splitmix(value):
    """The finaliser in Python integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def test_hash_is_splitmix_over_token_and_expert():
    values = [0, 1, 12345, 2**40 + 7]
    assert mixed(torch.tensor(values)).tolist() == [signed(splitmix(value)) for value in values]
    tokens = torch.tensor([[3, 7, 3], [900, 3, 7]])
    routing = ROUTERS["hash"](4, 16, 2)(torch.zeros(6, 4), TokenContext(tokens))
    for token, ids in zip(tokens.flatten().tolist(), routing.ids.tolist(), strict=True):
        assert ids == sorted(range(16), key=lambda e: -signed(splitmix(token * 16 + e)))[:2]
    assert routing.ids[0].equal(routing.ids[2])


def test_hash_spreads_a_vocabulary_evenly():
    routing = ROUTERS["hash"](4, 16, 2)(torch.zeros(4096, 4), TokenContext(torch.arange(4096)[None]))
    load = routing.load(16)
    assert load.max() / load.mean() < 1.15


def test_random_choices_are_uniform_distinct_and_seeded():
    router = ROUTERS["random"](4, 16, 4)
    drawn = [
        router(torch.zeros(4000, 4), TokenContext(torch.zeros(1, 4000), torch.Generator().manual_seed(seed))).ids
        for seed in (0, 0, 1)
    ]
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    assert all(len(set(ids)) == 4 for ids in drawn[0].tolist())
    load = torch.bincount(drawn[0].flatten(), minlength=16).float()
    assert load.max() / load.mean() < 1.15


def test_kmeans_takes_the_nearest_centroids_and_moves_them():
    torch.manual_seed(0)
    router = ROUTERS["kmeans"](6, 4, 2, decay=0.5, temperature=0.2)
    x, context = torch.randn(50, 6), TokenContext(torch.zeros(5, 10))
    before = router.centroids.numpy().copy()
    unit = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    cosine = unit @ before.T
    routing = router.train()(x, context)
    order = np.argsort(-cosine, axis=1)[:, :2]
    np.testing.assert_array_equal(routing.ids, order)
    weights = np.exp(np.take_along_axis(cosine, order, 1) / 0.2)
    np.testing.assert_allclose(routing.gates, weights / weights.sum(1, keepdims=True), rtol=1e-4)
    for expert in range(4):
        mean = unit[(order == expert).any(1)].mean(0)
        moved = 0.5 * before[expert] + 0.5 * mean
        np.testing.assert_allclose(router.centroids[expert], moved / np.linalg.norm(moved), rtol=1e-4)
    centroids = router.centroids.clone()
    router.eval()(x, context)
    assert router.centroids.equal(centroids)


def test_kmeans_finds_separate_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:4] * 5
    x = (centres.repeat(64, 1) + torch.randn(256, 8, generator=generator)).contiguous()
    router = ROUTERS["kmeans"](8, 4, 1, decay=0.8).train()
    context = TokenContext(torch.zeros(1, 256))
    for _ in range(200):
        router.after_step(router(x, context), 0.0)
    ids = router.eval()(x, context).ids.view(64, 4)
    assert (ids == ids[0]).float().mean() > 0.95
    assert len(set(ids[0].tolist())) == 4


def test_exact_assignment_is_the_best_of_all_balanced_ones():
    torch.manual_seed(0)
    affinity = torch.randn(6, 3)
    ids = balanced_assignment(affinity, 1)[:, 0]
    best = max(set(permutations([0, 0, 1, 1, 2, 2])), key=lambda row: sum(affinity[t, e] for t, e in enumerate(row)))
    assert ids.tolist() == list(best)


def test_further_rounds_never_repeat_an_expert_and_stay_balanced():
    ids = balanced_assignment(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), 3)
    assert all(len(set(row)) == 3 for row in ids.tolist())
    assert torch.bincount(ids.flatten(), minlength=8).tolist() == [12] * 8


def test_sinkhorn_plan_has_the_marginals():
    plan = sinkhorn(
        torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + torch.eye(8).repeat(8, 1), rounds=200
    )
    np.testing.assert_allclose(plan.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(0), 8, rtol=0.01)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_base_balances_in_training_and_is_greedy_outside(method):
    torch.manual_seed(0)
    router = ROUTERS["base"](12, 8, 2, method=method)
    torch.nn.init.normal_(router.weight)
    x, context = torch.randn(128, 12) + 0.5, TokenContext(torch.zeros(4, 32))
    balanced, greedy = router.train()(x, context), router.eval()(x, context)
    affinity = x @ router.weight.T
    assert greedy.ids.equal(affinity.topk(2).indices)
    torch.testing.assert_close(balanced.gates, torch.sigmoid(affinity.gather(1, balanced.ids)) / 2)
    assert balanced.load(8).max() <= (32 if method == "exact" else 45)
    assert greedy.load(8).max() > balanced.load(8).max()


def test_an_unknown_method_is_named():
    with pytest.raises(InvalidInput, match="write exact or sinkhorn"):
        ROUTERS["base"](12, 8, 2, method="auction")


def test_routing_type_is_what_all_return():
    for name in ("hash", "random", "kmeans", "base"):
        router = ROUTERS[name](4, 8, 2)
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter)
        assert isinstance(router(torch.randn(6, 4), TokenContext(torch.zeros(2, 3, dtype=torch.long))), Routing)
