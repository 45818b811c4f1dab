"""The latent-factor model: what it draws has the parts it was given, and real traces are met by fitting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing import latent
from moesim.routing.health import moments
from moesim.routing.latent import Geometry, LatentModel, draw
from moesim.routing.synthesis import fitted
from moesim.routing.trace import RouterTrace

GEOMETRY = Geometry(layers=3, experts=32, top_k=4)
OFFSETS = np.arange(0, 8193, 256)


def seen(model, geometry=GEOMETRY, offsets=OFFSETS):
    load = np.ones((geometry.layers, geometry.experts))
    ids = draw(model, load, geometry, offsets, np.random.default_rng(0))
    return moments(RouterTrace("t", ids, offsets, geometry.experts))


def test_one_new_latent_a_token_leaves_no_persistence():
    drawn = seen(LatentModel(8, 1.0, (1.0, 0, 0, 0)))
    assert max(map(abs, drawn.autocorrelation.values())) < 0.01


def test_parts_forget_at_their_own_speed():
    fast = seen(LatentModel(8, 1.0, (0, 1.0, 0, 0))).autocorrelation
    constant = seen(LatentModel(8, 1.0, (0.5, 0, 0, 0.5))).autocorrelation
    assert fast[1] > 0.15 > 0.03 > fast[16]
    assert constant[64] == pytest.approx(constant[1], abs=0.03)
    assert constant[64] > 0.1


def test_the_next_layer_is_foretold_better_with_fewer_dimensions_and_slower_turning():
    hits = [seen(LatentModel(d, rho, (1.0, 0, 0, 0))).next_layer_hit for d, rho in ((4, 1.0), (12, 1.0), (12, 0.5))]
    assert hits[0] > hits[1] + 0.1 > hits[2] + 0.2


def test_latents_are_standard_normal_with_the_given_correlations():
    model = LatentModel(4, 0.8, (0.2, 0.3, 0.3, 0.2))
    drawn = latent._latents(model, np.full(600, 20), 4, np.random.default_rng(0)).reshape(600, 20, 4, 4)
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn[:, :, 1:] * drawn[:, :, :-1]).mean() == pytest.approx(0.8, abs=0.02)
    for lag in (1, 4):
        wanted = 0.3 * 0.5**lag + 0.3 * 0.94**lag + 0.2
        assert (drawn[:, lag:] * drawn[:, :-lag]).mean() == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("tokens", [1, 2, 37, 1000])
def test_autoregression_is_its_recurrence(tokens):
    noise = np.random.default_rng(0).standard_normal((tokens, 3), dtype=np.float32)
    wanted = noise.copy()
    for token in range(1, tokens):
        wanted[token] = 0.94 * wanted[token - 1] + np.sqrt(1 - 0.94**2) * noise[token]
    latent._autoregress(noise, 0.94)
    np.testing.assert_allclose(noise, wanted, atol=1e-4)


def test_group_limits_hold_in_every_row():
    geometry = Geometry(layers=2, experts=32, top_k=4, groups=8, kept_groups=2)
    ids = draw(LatentModel(8, 0.9, (1.0, 0, 0, 0)), np.ones((2, 32)), geometry, OFFSETS, np.random.default_rng(0))
    groups = np.sort(ids // 4, axis=-1)
    assert (1 + np.count_nonzero(np.diff(groups, axis=-1), axis=-1)).max() <= 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6000), min_size=1, max_size=12))
def test_pieces_cover_every_token_once_and_keep_short_sequences_whole(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    pieces = latent._pieces(offsets)
    assert [piece[0] for piece in pieces[1:]] == [piece[-1] for piece in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][-1]) == (0, offsets[-1])
    assert all(np.diff(piece).min() > 0 for piece in pieces)
    cuts = set(np.concatenate(pieces).tolist())
    assert set(offsets.tolist()) <= cuts
    assert max(np.diff(piece).max() for piece in pieces) <= latent._PIECE
    if max(lengths) <= latent._PIECE:
        assert cuts == set(offsets.tolist())


@pytest.mark.parametrize("task", ["law", "translation"])
def test_fitted_traces_match_deepseek_v2_lite(deepseek_v2_lite, task):
    source = deepseek_v2_lite(task)
    wanted = moments(source)
    geometry = Geometry(source.layers, source.experts, source.top_k)
    reached = moments(fitted(geometry, source=source, rng=np.random.default_rng(0)))
    assert reached.max_over_mean == pytest.approx(wanted.max_over_mean, rel=0.15)
    assert reached.gini == pytest.approx(wanted.gini, abs=0.05)
    assert reached.hottest_rank[8] == pytest.approx(wanted.hottest_rank[8], rel=0.05)
    assert reached.next_layer_hit == pytest.approx(wanted.next_layer_hit, abs=0.08)
    assert reached.next_layer_popularity == pytest.approx(wanted.next_layer_popularity, abs=0.03)
    for lag in (1, 4, 16, 64):
        assert reached.autocorrelation[lag] == pytest.approx(wanted.autocorrelation[lag], abs=0.04)
