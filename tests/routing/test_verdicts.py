"""Verdicts say what the figures mean."""

import dataclasses

import numpy as np
import pytest

from moesim.routing.health import health
from moesim.routing.latent import Geometry, LatentModel, draw
from moesim.routing.trace import RouterTrace
from moesim.routing.verdicts import collapsed_layers, verdicts

OFFSETS = np.arange(0, 4097, 256)


def a_trace(model=LatentModel(5, 0.95, (0.4, 0.5, 0.1, 0.0)), sigma=0.5, **fields):  # noqa: B008
    load = np.exp(np.random.default_rng(0).normal(0, sigma, (3, 32)))
    ids = draw(model, load, Geometry(3, 32, 4), OFFSETS, np.random.default_rng(0))
    return RouterTrace("t", ids, OFFSETS, 32, **fields)


def said(trace):
    return {verdict.topic: verdict for verdict in verdicts(health(trace))}


def test_a_healthy_trace():
    words = said(a_trace())
    assert words["collapse"].level == "good"
    assert words["persistence"].text.startswith("choices persist from token to token and fade")
    assert words["layers"].text.endswith("experts can be fetched ahead")
    assert "training" not in words
    assert "origin" not in words
    assert "on 8" in words["ranks"].text


def test_one_expert_with_half_of_the_tokens_is_a_collapse():
    trace = a_trace()
    ids = np.array(trace.ids)
    rows = ids[:2500, 1]
    rows[~(rows == 7).any(axis=1), 0] = 7
    seen = health(dataclasses.replace(trace, ids=ids))
    assert collapsed_layers(seen) == [1]
    verdict = next(verdict for verdict in verdicts(seen) if verdict.topic == "collapse")
    assert verdict.level == "bad"
    assert verdict.text.startswith("one expert has over half of the tokens at layer 1 (")


def test_half_of_the_experts_idle_is_a_collapse():
    seen = health(dataclasses.replace(a_trace(), experts=80))
    assert collapsed_layers(seen) == [0, 1, 2]
    assert "under half of the experts are active at layer 0, 1, 2 (40% at least)" in {v.text for v in verdicts(seen)}


def test_random_routers_are_told_from_trained_ones():
    words = said(a_trace(LatentModel(48, 0.1, (0.8, 0.0, 0.0, 0.2))))
    assert (
        "nothing is local in time" in words["persistence"].text or "almost independently" in words["persistence"].text
    )
    assert words["layers"].level == "notice"
    assert words["training"].level == "bad"
    assert "training" not in said(a_trace(LatentModel(48, 0.1, (0.8, 0.0, 0.0, 0.2)), synthetic=True))
    assert said(a_trace(synthetic=True))["origin"].text.startswith("synthetic")


def test_domains_that_differ_are_named():
    first, second = a_trace(), a_trace()
    ids = np.concatenate([first.ids, (second.ids + 11) % 32])
    offsets = np.concatenate([OFFSETS, OFFSETS[1:] + OFFSETS[-1]])
    labels = ("law",) * 16 + ("code",) * 16
    words = said(RouterTrace("t", ids, offsets, 32, labels=labels))
    assert words["labels"].text.startswith("loads of the 2 labels correlate")
    assert words["labels"].level == "notice"
    assert words["drift"].text.endswith("a placement must follow")


@pytest.mark.parametrize("layers", [1, 3])
def test_short_traces_have_verdicts_too(layers):
    ids = np.tile(np.arange(4, dtype=np.uint8).reshape(1, 1, 4), (3, layers, 1))
    assert said(RouterTrace("t", ids, np.array([0, 1, 2, 3]), 8))["capacity"]
