"""Effects of known groups: nothing where nothing is known, bounded where loads are far out."""

import numpy as np
import pytest

from moesim.serving.effects import FEATURES, Effects, features, image_name

GROUP = ("vllm", "gpt-oss-120b", "h100", "fp4")
EFFECTS = Effects(
    groups={"vllm gpt-oss-120b h100 fp4": (0.1, -0.05)},
    images={"vllm gpt-oss-120b h100 fp4 vllm-openai:v1": (0.0, 0.02)},
    slopes={"vllm gpt-oss-120b": ((0.1, 0, 0, 0), (0.02, 0, 0, 0))},
)


def test_an_unknown_group_gets_nothing():
    assert EFFECTS.factors("sglang", *GROUP[1:], "", features(8, 1024, 1024, 4)) == (1.0, 1.0)
    assert not EFFECTS.knows("sglang", *GROUP[1:], "")


def test_levels_images_and_slopes_add_up():
    load = features(128, 2048, 1024, 4)  # one scale of concurrency above the centre, otherwise at it
    ttft, tpot = EFFECTS.factors(*GROUP, "registry/vllm-openai:v1", load)
    assert np.log([ttft, tpot]) == pytest.approx([0.1 + 0.1, -0.05 + 0.02 + 0.02])


def test_an_image_that_was_not_seen_makes_a_group_unknown_but_keeps_its_level():
    assert EFFECTS.knows(*GROUP, "")
    assert EFFECTS.knows(*GROUP, "vllm-openai:v1")
    assert not EFFECTS.knows(*GROUP, "vllm-openai:v2")
    assert EFFECTS.factors(*GROUP, "vllm-openai:v2", np.zeros(len(FEATURES)))[1] == pytest.approx(np.exp(-0.05))


def test_slopes_end_where_measurements_do():
    far, further = (EFFECTS.factors(*GROUP, "", features(c, 2048, 1024, 4)) for c in (2**10, 2**16))
    assert far == further


def test_images_are_known_by_their_last_part():
    assert image_name("g", "host/folder/name:1") == image_name("g", "name:1") == "g name:1"
    assert image_name("g", "") == ""
