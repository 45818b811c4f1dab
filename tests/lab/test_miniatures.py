"""Miniatures: the shipped captures have the geometry they claim, and a capture can be made, broken off and resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch

import moesim.routing
from moesim.errors import InvalidInput
from moesim.lab import miniatures
from moesim.lab.corpus import held_out_sequences, text_digest
from moesim.lab.reference import ReferenceModel
from moesim.lab.training import Schedule
from moesim.model.architecture import Attention, Experts, Layer, MoEModel
from moesim.routing.health import moments
from moesim.routing.replay import select_sequences
from moesim.routing.route_cache import measure_route_cache
from moesim.routing.trace import open_trace

CAPTURES = Path(moesim.routing.__file__).parent / "captures"


@pytest.fixture
def tiny(corpus, small_config, monkeypatch):
    """A miniature that trains in a moment on a made-up corpus, under a name of its own."""
    miniature = miniatures.Miniature(
        "tiny", "nothing", small_config(), Schedule(steps=60, sequences=2, length=16), "tiny", "", tokens_per_domain=64
    )
    monkeypatch.setattr(miniatures, "MINIATURES", {"tiny": miniature})
    monkeypatch.setattr(miniatures, "load_corpus", lambda: corpus)
    return miniature


def test_a_capture_is_written_with_its_story(tiny, tmp_path):
    trace = open_trace(miniatures.capture_miniature("tiny", tmp_path / "tiny.safetensors"))
    assert trace.ids.shape == (128, 2, 2)
    assert trace.labels == ("counting", "motif", "motif", "counting") * 2
    assert trace.metadata["text_sha256"] == "made up"
    assert trace.metadata["schedule"]["steps"] == 60
    assert not trace.synthetic
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_ids_of_tokens_are_recorded_where_asked_for_and_key_a_cache_of_routes(tiny, corpus, tmp_path):
    plain = open_trace(miniatures.capture_miniature("tiny", tmp_path / "plain.safetensors"))
    trace = open_trace(miniatures.capture_miniature("tiny", tmp_path / "ids.safetensors", token_ids=True))
    assert plain.token_ids is None
    np.testing.assert_array_equal(trace.ids, plain.ids)
    sequences, _ = held_out_sequences(corpus, length=16, tokens_per_domain=64)
    np.testing.assert_array_equal(trace.token_ids, sequences[:, :-1].ravel())
    known = measure_route_cache(trace, trace, key="token", entries=1000)
    assert known.hit_rate == (1.0, 1.0)  # learned and judged on the same tokens


def test_an_interrupted_capture_leaves_a_checkpoint_and_resumes_to_the_same_bytes(tiny, tmp_path):
    whole = miniatures.capture_miniature("tiny", tmp_path / "whole.safetensors").read_bytes()

    def interrupt(stage, done, total):
        if done == 55:
            raise KeyboardInterrupt

    out = tmp_path / "broken.safetensors"
    with pytest.raises(KeyboardInterrupt):
        miniatures.capture_miniature("tiny", out, progress=interrupt)
    assert not out.exists()
    with pytest.raises(InvalidInput, match="checkpoint of another run"):
        miniatures.capture_miniature("tiny", out, rng_seed=1)
    assert miniatures.capture_miniature("tiny", out).read_bytes() == whole
    assert not out.with_name("broken.safetensors.checkpoint").exists()


def test_an_unknown_miniature_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="write one of deepseek-v3-miniature"):
        miniatures.capture_miniature("deepseek", tmp_path / "x.safetensors")


def test_a_miniature_can_be_given_another_router(tiny, tmp_path):
    trace = open_trace(miniatures.capture_miniature("tiny", tmp_path / "tiny.safetensors", router="switch"))
    assert (trace.name, trace.experts, trace.top_k) == ("tiny", 4, 1)
    assert trace.source.endswith("but with the router switch")
    with pytest.raises(InvalidInput, match="no router 'swich'"):
        miniatures.capture_miniature("tiny", tmp_path / "tiny.safetensors", router="swich")


def model(**changes):
    shape = {"routed": 64, "top_k": 6, "ffn": 1408, "shared_ffn": 2816} | changes
    attention = Attention("gqa", 16, 16, 128)
    layers = (Layer(attention, 10944), *(Layer(attention, experts=Experts(**shape)) for _ in range(26)))
    return MoEModel("some-model", "Some Model", 2048, 102400, layers)


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"routed": 160, "groups": 8, "kept_groups": 3},
        {"routed": 384, "top_k": 8, "score": "sigmoid"},
        {"routed": 256, "top_k": 8, "score": "sigmoid", "groups": 8, "kept_groups": 4},
        {"routed": 16, "top_k": 1, "score": "sigmoid"},
        {"routed": 16, "top_k": 2, "score": "sparsemixer", "shared_ffn": 0},
        {"routed": 512, "top_k": 10},
    ],
)
def test_any_model_has_a_miniature_of_its_geometry(geometry):
    made = miniatures.miniature_of(model(**geometry))
    experts = model(**geometry).layers[1].experts
    built = ReferenceModel(made.config, torch.Generator().manual_seed(0)).eval()
    tokens = torch.randint(2048, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, routings = built(tokens)
    assert len(routings) == 3
    ids = routings[0][0].ids
    assert ids.shape == (32, experts.top_k)
    assert ids.max() < experts.routed
    groups_used = [len(set((row // (experts.routed // experts.groups)).tolist())) for row in ids]
    assert max(groups_used) <= experts.kept_groups or experts.groups == 1
    assert routings[0][0].gates.std() > 0  # a constant gate would teach the router nothing


def test_a_dense_model_has_no_miniature():
    dense = MoEModel("dense", "Dense", 64, 100, (Layer(Attention("gqa", 2, 2, 32), 128),))
    with pytest.raises(InvalidInput, match="dense has no routed experts"):
        miniatures.miniature_of(dense)


@pytest.mark.parametrize("miniature", miniatures.MINIATURES.values(), ids=lambda miniature: miniature.name)
def test_shipped_captures_have_the_geometry_they_claim(miniature):
    trace = open_trace(CAPTURES / f"{miniature.name}.safetensors")
    config = miniature.config
    assert (trace.experts, trace.top_k, trace.groups) == (config.experts, config.top_k, config.groups)
    assert trace.layers == config.moe_layers
    assert trace.tokens >= 24_000
    assert len(set(trace.labels)) >= 5
    assert trace.metadata["text_sha256"] == text_digest()
    assert trace.metadata["config"] == miniatures.describe_config(config)


def test_the_256_expert_capture_is_skewed_like_deepseek_r1_and_local():
    """R1's ranges over twelve workloads (counts published by SGLang), as means over the domains of the capture."""
    trace = open_trace(CAPTURES / "deepseek-v3-miniature.safetensors")
    labels = np.array(trace.labels)
    parts = [moments(select_sequences(trace, np.flatnonzero(labels == label))) for label in set(trace.labels)]
    assert 5.5 < np.mean([part.max_over_mean for part in parts]) < 8.1
    assert 0.32 < np.mean([part.gini for part in parts]) < 0.46
    assert 1.54 < np.mean([part.hottest_rank[8] for part in parts]) < 2.07
    assert 2.05 < np.mean([part.hottest_rank[32] for part in parts]) < 3.04
    assert 0.2 < np.mean([part.group_correlation for part in parts]) < 0.34
    near, far = (np.mean([part.autocorrelation[lag] for part in parts]) for lag in (1, 64))
    assert near > 0.08  # random weights: flat in the lag
    assert far < 0.02
    assert np.mean([part.next_layer_hit - part.next_layer_popularity for part in parts]) > 0.2
    assert moments(trace).active == 1  # no expert died in training


def test_shipped_captures_are_small():
    assert sum(path.stat().st_size for path in CAPTURES.glob("*.safetensors")) <= 4_000_000
