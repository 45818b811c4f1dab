"""Servers of prompts in disaggregated systems, by hand."""

from dataclasses import replace

import pytest

from moesim.study.entries.deployment.server import server_of
from moesim.study.entries.inference import apart
from moesim.study.entries.inference.traffic import traffic_of
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry

SPLIT = Entry(
    "one", kind="inference", model="DeepSeek-R1", hardware="B200", devices=4, parallelism="disaggregated", batch="",
    precision="FP4", input_len="1k", output_len="1k", software="TensorRT-LLM", metric="throughput at 50 tok/s/user",
    unit="tok/s/GPU",
)  # fmt: skip


def _prompts(**changes):
    entry = replace(SPLIT, **changes)
    return traffic_of(entry, server_of(entry, Assumptions()), Assumptions()).prompts


def test_prompts_are_computed_apart_where_a_text_says_so():
    server = _prompts()
    assert (server.devices, server.attention_dp, server.ep) == (4, 4, 4)
    assert _prompts(parallelism="DEP4") is None
    assert _prompts(metric="peak throughput") is None  # as an ideal split gives


@pytest.mark.parametrize(("flight", "servers"), [(10, 1), (1024, 2), (8192, 13)])
def test_as_many_servers_as_the_prompts_of_all_users_need(monkeypatch, flight, servers):
    monkeypatch.setattr(apart, "prompt_seconds", lambda server, preset, tokens: 0.1)
    document = {
        "load": {"arrivals": {"in_flight": flight}, "input": {"tokens": 1000}, "output": {"tokens": 1024}},
        "server": {"preset": "trtllm", "token_budget": 4096},
    }
    # each user brings a prompt every 1024 / 50 s; a server of 4 ranks computes 40 a second, for 80 % of the time
    found = apart.enough(_prompts(), document, 50.0)
    assert found["servers"] == servers
    assert found["server"] == {"preset": "trtllm", "prefix_caching": False, "token_budget": 4096}
    assert found["placement"] == {"kind": "contiguous", "slots_per_rank": 64}
