"""The deployment of a figure at a stated speed: what is tried, and that the best one is taken."""

import math

import pytest

from moesim.study.entries.deployment.server import server_of
from moesim.study.entries.inference import choice
from moesim.study.entries.inference.lengths import Lengths
from moesim.study.entries.reading.case import Assumptions, NotStated
from moesim.study.entries.reading.entry import Entry

SERVER = server_of(
    Entry(
        "one", model="Qwen3-30B-A3B", hardware="B200", devices=2, parallelism="TP2", precision="FP8", software="vLLM"
    ),
    Assumptions(),
)


class Steps:
    """Two milliseconds of fixed work, `factor` milliseconds for a token of the whole server, over its devices, and
    `prompt_s` for a step of prompts."""

    def __init__(self, server, factor, prompt_s=0.0):
        self._devices, self._factor, self._prompt_s = server.devices, factor, prompt_s

    def decode_s(self, sequences, total, context, draw=0):
        return 2e-3 + self._factor * 1e-3 * total / self._devices

    def mixed_s(self, sequences, total, context, prefill, draw=0):
        assert (sequences, total, prefill.tokens, prefill.prompts) == (0, 0, 100, 1)
        return self._prompt_s


def _best(**changes):
    asked = {"step_s": 12e-3, "queries": 2, "lengths": Lengths(100, 50), "steps": 25, "devices": 8}
    return choice.best_at_speed(SERVER, "vllm", **(asked | changes))


def test_powers_of_two_up_to_the_domain():
    tried = [(each.devices, each.attention_dp, each.ep) for each in choice._candidates(SERVER, 8)]
    assert tried == [(2, 2, 2), (2, 1, 1), (4, 4, 4), (4, 1, 1), (8, 8, 8), (8, 1, 1)]


def test_most_sequences_within_the_step(monkeypatch):
    slower = {2: 3.0, 4: 1.0, 8: 2.0}  # four devices serve most
    monkeypatch.setattr(
        choice, "_priced", lambda server, preset, context: (Steps(server, slower[server.devices]), 1000)
    )
    best, most = _best(steps=math.inf)
    assert best.devices == 4
    # 2 ms + 2 tokens a sequence x 1 ms x sequences on all / devices <= 12 ms
    assert most * best.attention_dp == 20


def test_decoding_waits_for_the_prompts_that_its_sequences_bring(monkeypatch):
    monkeypatch.setattr(choice, "_priced", lambda server, preset, context: (Steps(server, 1.0, prompt_s=0.05), 1000))
    best, most = _best()
    # 2 ms + (2 + 50 / 25) ms a sequence of a rank, where every device has a rank
    assert (best.attention_dp, most) == (best.devices, 2)
    assert _best(steps=math.inf)[1] == 5


def test_a_speed_that_no_deployment_reaches_is_no_case(monkeypatch):
    monkeypatch.setattr(choice, "_priced", lambda *_: (Steps(SERVER, 1.0), 0))
    with pytest.raises(NotStated, match="no deployment"):
        _best()
