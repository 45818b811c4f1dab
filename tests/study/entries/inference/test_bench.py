"""What TensorRT-LLM's benchmark tool queues and sets, by hand."""

import pytest

from moesim.study.entries.deployment.server import server_of
from moesim.study.entries.inference import bench
from moesim.study.entries.inference.lengths import Lengths
from moesim.study.entries.prediction.predict import case_of
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.runs.runner import Runner

QUEUED = Entry(
    "one", kind="inference", model="Qwen3-30B-A3B", hardware="B200", devices=1, parallelism="TP1", precision="FP4",
    batch="max throughput (unstated)", input_len="1024", output_len="1024", software="TensorRT-LLM",
    metric="max output throughput per GPU", unit="output tok/s/GPU",
)  # fmt: skip


def _server(**changes):
    stated = {name: getattr(QUEUED, name) for name in Entry.__slots__} | changes
    return server_of(Entry(**stated), Assumptions())


@pytest.mark.parametrize(
    ("lengths", "count"), [((1024, 1024), 3000), ((1000, 1000), 3000), ((8192, 1024), 1500), ((1024, 32768), 1000)]
)
def test_requests_are_those_of_the_nearest_lengths(lengths, count):
    assert bench.requests(Lengths(*lengths)) == count


def test_limits_follow_the_tools_estimate_of_the_cache():
    server = _server()
    hbm, parameters = server.hardware.device.hbm_bytes, 30.53e9
    # two tensors of 4 heads of 128 in FP8 at 48 layers; four FP4 weights to a byte, as the tool counts them
    held = 0.95 * (hbm - parameters / 4) / (2 * 48 * 4 * 128 * 2048)
    assert 1536 < held < 1792
    # as many prompt as output tokens, so the step has two tokens a sequence, in multiples of 256
    assert bench.rules(server, Lengths(1024, 1024)) == {
        "hold_steps": 0, "max_sequences": 1792, "token_budget": -(-2 * held // 256) * 256,
    }  # fmt: skip
    long = bench.rules(server, Lengths(1024, 32768))
    assert long == {"hold_steps": 0, "max_sequences": 128, "token_budget": 2048}
    whole = bench.rules(server, Lengths(32768, 1024))  # a step takes the whole prompt
    assert whole["token_budget"] == 32768 + whole["max_sequences"]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"model": "GPT-OSS-20B"}, {"hold_steps": 0}),  # MXFP4 weights are none that the tool knows
        ({"model": "DeepSeek-R1", "devices": 4, "parallelism": "DEP4"}, {"hold_steps": 60}),
    ],
)
def test_other_models_keep_the_limits_of_the_stack(changes, kept):
    assert bench.rules(_server(**changes), Lengths(1024, 1024)) == kept


def test_a_maximum_throughput_is_a_run_of_the_tool():
    document = case_of(QUEUED, Runner()).document
    assert document["load"]["requests"] == document["load"]["arrivals"]["in_flight"] == 3000
    rules = document["server"]
    assert 1300 < rules["max_sequences"] < 1792  # what the cache holds of the tool's limit
    # the cache takes 95 % of what weights and 5 GB of buffers leave
    server = _server()
    hbm = server.hardware.device.hbm_bytes
    others = hbm * (rules["memory_share"] - 0.95) / 0.05
    assert 5e9 + 15e9 < others < 5e9 + 20e9
    elsewhere = case_of(Entry(**{n: getattr(QUEUED, n) for n in Entry.__slots__} | {"software": "vLLM"}), Runner())
    assert elsewhere.document["load"]["requests"] == 3 * elsewhere.document["load"]["arrivals"]["in_flight"]
