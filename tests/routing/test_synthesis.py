"""Synthetic traces: their loads are those asked for, and each tells what it is."""

import dataclasses
import json

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.routing import load as loads
from moesim.routing import synthesis
from moesim.routing.checks import check_trace
from moesim.routing.health import moments
from moesim.routing.latent import Geometry, LatentModel, draw
from moesim.routing.load import LoadTable
from moesim.routing.trace import RouterTrace, open_trace, write_trace

SMALL = Geometry(layers=2, experts=16, top_k=2)


def rng():
    return np.random.default_rng(0)


def a_table(layers=3, experts=16):
    return LoadTable("counts", np.exp(rng().normal(0, 0.7, (layers, experts))) * 1000, top_k=2)


def a_trace(layers=3, experts=16, tokens=2048):
    offsets = np.arange(0, tokens + 1, 128)
    model = LatentModel(5, 0.95, (0.5, 0.3, 0.1, 0.1))
    ids = draw(model, a_table(layers, experts).load, Geometry(layers, experts, 2), offsets, rng())
    return RouterTrace("captured", ids, offsets, experts)


KINDS = {
    "balanced": lambda: synthesis.balanced(SMALL, rng=rng()),
    "power_law": lambda: synthesis.power_law(SMALL, alpha=1.2, rng=rng()),
    "lognormal": lambda: synthesis.lognormal(SMALL, sigma=0.7, clusters={4: 0.3}, rng=rng()),
    "bootstrap": lambda: synthesis.bootstrap(SMALL, table=a_table(), rng=rng()),
    "fitted": lambda: synthesis.fitted(dataclasses.replace(SMALL, layers=3), source=a_trace(), rng=rng()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_valid_trace_that_says_what_it_is(tmp_path, kind):
    trace = KINDS[kind]()
    check_trace(trace)
    assert trace.synthetic
    assert trace.source.startswith(f"synthetic ({kind}")
    story = open_trace(write_trace(tmp_path / "synthetic.safetensors", trace)).metadata["synthesis"]
    assert story["kind"] == kind
    assert story["fitted_to"] == {"bootstrap": "counts", "fitted": "captured"}.get(kind, "")
    assert story["moments_reached"]["gini"] == pytest.approx(moments(trace).gini)
    assert json.dumps(story) == json.dumps(json.loads(json.dumps(story)))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_make_equal_traces(kind):
    np.testing.assert_array_equal(KINDS[kind]().ids, KINDS[kind]().ids)


def test_balanced_routes_differ_by_one_token_at_most():
    routes = synthesis.balanced_routes(SMALL, tokens_per_rank=np.array([5, 0, 8]), rng=rng())
    assert routes.offsets.tolist() == [0, 5, 5, 13]
    load = loads.count_choices(routes.ids.transpose(1, 0, 2), 16)[0]
    assert load.sum(axis=1).tolist() == [26, 26]
    assert np.ptp(load, axis=1).max() <= 1
    assert loads.gini(loads.expert_load(synthesis.balanced(SMALL, rng=rng()))).max() < 0.001


@pytest.mark.parametrize(("top_k", "kept"), [(8, 4), (6, 3), (5, 2)])
def test_balanced_routes_keep_to_the_groups_that_a_token_may_use(top_k, kept):
    geometry = Geometry(layers=3, experts=64, top_k=top_k, groups=8, kept_groups=kept)
    routes = synthesis.balanced_routes(geometry, tokens_per_rank=np.array([64]), rng=rng())
    for layer in routes.ids:
        assert all(len(set(token)) == top_k for token in layer.tolist())
        assert all(len(set(token)) == kept for token in (layer // 8).tolist())
        assert np.ptp(np.bincount(layer.ravel(), minlength=64)) == 0  # a round of all experts is exactly even
        assert np.ptp(np.bincount(layer[:13].ravel(), minlength=64)) <= 2


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.01, 1.2])
def test_power_law_loads_follow_their_definition(alpha):
    load = synthesis.power_law_load(alpha, 1024, 64, 8, rng())
    u = np.random.default_rng(0).random(64)
    power = 1 - alpha if alpha != 1 else 1e-9
    popularity = ((819.2**power - 1) * u + 1) ** (1 / power)
    np.testing.assert_allclose(load, np.minimum(popularity / popularity.sum() * 8192, 1024), atol=0.6)
    assert load.max() <= 1024


def test_power_law_with_few_tokens_uses_the_narrow_range():
    load = synthesis.power_law_load(1.2, 4, 256, 8, rng())
    assert load.sum() == pytest.approx(32, abs=30)
    assert load.max() <= 4


def test_lognormal_loads_have_their_variance_and_clusters():
    load = synthesis.lognormal_load(2000, 64, 0.7, {8: 0.4}, rng())
    assert np.log(load).std() == pytest.approx(0.7, rel=0.02)
    group_means = np.log(load).reshape(2000, 8, 8).mean(axis=2)
    assert group_means.var() / 0.49 == pytest.approx(0.4 + 0.6 / 8, rel=0.05)
    for clusters in ({3: 0.1}, {8: 0.7, 16: 0.4}, {8: -0.1}):
        with pytest.raises(InvalidInput, match="clusters"):
            synthesis.lognormal_load(2, 64, 0.7, clusters, rng())


def test_bootstrap_repeats_layers_when_the_model_has_more():
    trace = synthesis.bootstrap(Geometry(5, 16, 2), table=a_table(), rng=rng())
    load = loads.expert_load(trace)
    assert loads.load_correlation(load[:3], a_table().load).min() > 0.99
    nearest = [max(loads.load_correlation(load[layer], known) for known in a_table().load) for layer in (3, 4)]
    assert min(nearest) > 0.99
    with pytest.raises(InvalidInput, match=r"16 experts, top 2; the model has 32, top 2; .* lognormal"):
        synthesis.bootstrap(Geometry(5, 32, 2), table=a_table(), rng=rng())


def test_fitted_moves_to_another_geometry():
    source = a_trace()
    wanted = moments(source)
    moved = synthesis.fitted(Geometry(5, 32, 4, 4, 2), source=source, rng=rng(), tokens=3000)
    assert moved.ids.shape == (3000, 5, 4)
    assert moved.metadata["synthesis"]["parameters"]["moved"]
    reached = moments(moved)
    assert reached.max_over_mean == pytest.approx(wanted.max_over_mean, rel=0.15)
    assert reached.gini == pytest.approx(wanted.gini, abs=0.05)
    assert reached.next_layer_hit == pytest.approx(wanted.next_layer_hit, abs=0.08)
    assert reached.autocorrelation[1] == pytest.approx(wanted.autocorrelation[1], abs=0.04)


def test_moved_loads_keep_their_distribution():
    load = a_table(4, 64).load
    same = synthesis.moved_load(load, Geometry(4, 64, 2), 1, rng())
    np.testing.assert_array_equal(same, load)
    deeper = synthesis.moved_load(load, Geometry(7, 64, 2), 1, rng())
    np.testing.assert_array_equal(deeper[[0, 6]], load[[0, 3]])
    wider = synthesis.moved_load(load, Geometry(4, 256, 2), 1, rng())
    np.testing.assert_allclose(loads.gini(wider), loads.gini(load), atol=0.02)
    assert loads.max_over_mean(wider).mean() == pytest.approx(loads.max_over_mean(load).mean(), rel=0.1)


def test_moved_loads_keep_hot_experts_in_their_groups():
    load = synthesis.lognormal_load(60, 64, 0.7, {8: 0.4}, rng()) * 1000
    kept = synthesis.moved_load(load, Geometry(60, 256, 2, groups=8), 8, rng())
    wanted = loads.group_correlation(load, 8).mean()
    assert loads.group_correlation(kept, 8).mean() == pytest.approx(wanted, abs=0.1)
    lost = synthesis.moved_load(load, Geometry(60, 256, 2, groups=8), 1, rng())
    assert loads.group_correlation(lost, 8).mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("workload", ["decode_in1000out1000", "prefill_in4096", "prefill_in512"])
def test_deepseek_r1_is_met_by_bootstrap_and_by_lognormal_with_groups(deepseek_r1_loads, workload):
    """Hottest ranks and experts within 10 %; the lognormal's Gini is a little high, for its hot tail is too light."""
    table = LoadTable(workload, deepseek_r1_loads[workload], top_k=8)
    geometry = Geometry(58, 256, 8, groups=8)
    lognormal = synthesis.lognormal(geometry, like=table, rng=rng(), **synthesis.fit_lognormal(table, rng()))
    for trace in (synthesis.bootstrap(geometry, table=table, rng=rng()), lognormal):
        load = loads.expert_load(trace)
        for ranks in (8, 32):
            wanted = loads.hottest_rank(table.load, ranks).mean()
            assert loads.hottest_rank(load, ranks).mean() == pytest.approx(wanted, rel=0.1)
        assert loads.max_over_mean(load).mean() == pytest.approx(loads.max_over_mean(table.load).mean(), rel=0.15)
        assert loads.gini(load).mean() == pytest.approx(loads.gini(table.load).mean(), abs=0.05)
    assert lognormal.metadata["synthesis"]["fitted_to"] == workload
