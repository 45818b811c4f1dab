"""A tiny corpus and model for the tests of the lab, which are left out where its extra is not installed."""

from importlib.util import find_spec

import numpy as np
import pytest

collect_ignore_glob = [] if find_spec("torch") and find_spec("tokenizers") else ["test_*.py", "routers/*"]


@pytest.fixture(scope="session")
def corpus():
    """Two made-up languages of 32 tokens: one counts upwards, one repeats a motif."""
    from moesim.lab.corpus import Corpus

    counting = (np.arange(4000) % 16).astype(np.uint16)
    motif = np.tile(np.array([20, 31, 25, 20, 27], np.uint16), 800)
    return Corpus(
        train={"counting": counting, "motif": motif},
        held_out={"counting": counting[:1100], "motif": motif[:1100]},
        vocabulary=32,
        digest="made up",
    )


@pytest.fixture
def small_config():
    """ReferenceConfig of a model that trains in a second; keyword arguments replace fields."""
    from moesim.lab.reference import ReferenceConfig

    def build(**changes):
        shape = {
            "vocabulary": 32, "hidden": 16, "heads": 2, "dense_layers": 1, "moe_layers": 2, "experts": 8, "top_k": 2,
            "expert_ffn": 8, "shared_ffn": 8, "dense_ffn": 16, "router": "topk_softmax",
        }  # fmt: skip
        return ReferenceConfig(**(shape | changes))

    return build
