"""The names known without torch are those of the modules, and every router trains and is recorded."""

import subprocess
import sys

import pytest
import torch

from moesim.lab.capture import capture_sequences
from moesim.lab.corpus import held_out_sequences
from moesim.lab.reference import ReferenceModel
from moesim.lab.routers import ROUTERS
from moesim.lab.training import Schedule, train
from moesim.routing.router_names import ROUTER_NAMES
from moesim.routing.trace import RouterTrace, write_trace

OPTIONS = {"group_limited": {"groups": 4, "kept_groups": 2}, "hierarchical": {"groups": 4, "kept_groups": 1}}


def test_names_agree():
    assert list(ROUTER_NAMES) == list(ROUTERS)


def test_names_need_no_torch():
    code = "import sys, moesim.routing.router_names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_trains_and_its_capture_is_a_valid_trace(name, corpus, small_config, tmp_path):
    options = OPTIONS.get(name, {})
    if name == "soft_moe":
        options = {"sequences": 4, "positions": 16}
    config = small_config(router=name, router_options=options)
    model = ReferenceModel(config, torch.Generator().manual_seed(0))
    rows, _ = held_out_sequences(corpus, length=16, tokens_per_domain=128)
    before = capture_sequences(model.eval(), rows, batch=4)
    train(model, corpus, Schedule(steps=12, sequences=4, length=16, learning_rate=1e-2, warm_up=2), seed=0)
    after = capture_sequences(model, rows, batch=4)
    assert after.loss < before.loss - 0.3
    trace = RouterTrace("t", offsets=torch.arange(len(rows) + 1).numpy() * 16, experts=8, **after.arrays)
    assert trace.layers == (4 if name == "chain_of_experts" else 2)
    write_trace(tmp_path / "t.safetensors", trace)


@pytest.mark.parametrize("policy", ["drop", "next_best", "queue"])
def test_a_capacity_is_trained_and_recorded(policy, corpus, small_config):
    config = small_config(capacity={"policy": policy, "factor": 1.0})
    model = ReferenceModel(config, torch.Generator().manual_seed(0))
    train(model, corpus, Schedule(steps=4, sequences=2, length=16), seed=0)
    rows, _ = held_out_sequences(corpus, length=16, tokens_per_domain=128)
    captured = capture_sequences(model, rows)
    count = captured.arrays["count"]
    assert count.max() <= 2
    assert 1 - count.mean() / 2 == pytest.approx(captured.dropped)
    assert policy == "next_best" or captured.dropped > 0
