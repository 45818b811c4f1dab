"""The deployment of a figure at a stated speed: what is tried, and that the best one is taken."""

from moesim.study.entries import choice
from moesim.study.entries.case import Assumptions
from moesim.study.entries.deployment import server_of
from moesim.study.entries.entry import Entry

SERVER = server_of(
    Entry(
        "one", model="Qwen3-30B-A3B", hardware="B200", devices=2, parallelism="TP2", precision="FP8", software="vLLM"
    ),
    Assumptions(),
)


class Steps:
    """Two milliseconds of fixed work, and `factor` milliseconds for a token of the whole server, over its devices."""

    def __init__(self, server, factor):
        self._devices, self._factor = server.devices, factor

    def decode_s(self, sequences, total, context, draw=0):
        return 2e-3 + self._factor * 1e-3 * total / self._devices


def test_powers_of_two_up_to_the_domain():
    tried = [(each.devices, each.attention_dp, each.ep) for each in choice._candidates(SERVER, 8)]
    assert tried == [(2, 2, 2), (2, 1, 1), (4, 4, 4), (4, 1, 1), (8, 8, 8), (8, 1, 1)]


def test_most_sequences_within_the_step(monkeypatch):
    slower = {2: 3.0, 4: 1.0, 8: 2.0}  # four devices serve most
    monkeypatch.setattr(
        choice, "_priced", lambda server, preset, context: (Steps(server, slower[server.devices]), 1000)
    )
    best, most = choice.best_at_speed(SERVER, "vllm", step_s=12e-3, queries=2, context=100, devices=8)
    assert best.devices == 4
    # 2 ms + 2 tokens a sequence x 1 ms x sequences on all / devices <= 12 ms
    assert most * best.attention_dp == 20


def test_without_room_the_given_server_stays(monkeypatch):
    monkeypatch.setattr(choice, "_priced", lambda *_: (Steps(SERVER, 1.0), 0))
    assert choice.best_at_speed(SERVER, "vllm", step_s=1.0, queries=1, context=10, devices=8) == (SERVER, 1)
