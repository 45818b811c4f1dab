from dataclasses import dataclass

import numpy as np
import pytest

from moesim.routing.health import moments
from moesim.routing.trace import RouterTrace
from moesim.spec.model.file import load_model
from moesim.study.comparison.compare_routers import compare_routers, with_router


@dataclass
class Run:
    router: str
    trace: RouterTrace
    experts: int
    top_k: int
    width: int = 1
    passes: int = 1
    held_out_loss: float = 4.0
    dropped: float = 0.0

    @property
    def moments(self):
        return moments(self.trace)


def run(router, hot, *, experts=64, top_k=8, count=None, **options):
    """A made-up run whose first experts are `hot` times as popular as the others."""
    rng = np.random.default_rng(0)
    weight = np.where(np.arange(experts) < experts // 8, hot, 1.0)
    keys = np.log(weight) + rng.gumbel(size=(4096, 3, experts))
    ids = np.argsort(-keys, axis=2)[:, :, :top_k].astype(np.uint8)
    trace = RouterTrace(name=router, ids=ids, offsets=np.arange(0, 4097, 256), experts=experts, count=count)
    return Run(router, trace, experts, top_k, **options)


def test_a_skewed_router_costs_more_and_dropping_costs_less():
    none = np.full((4096, 3), 4, dtype=np.uint8)
    runs = [run("even", 1.0), run("skewed", 8.0), run("half", 1.0, count=none)]
    table = compare_routers(runs, ["routers-h100"]).set_index("router")
    step = table["routers-h100_step_s"]
    assert step["half"] < step["even"] < step["skewed"]
    assert table.loc["half", "choices"] == 4
    assert table.loc["skewed", "routers-h100_hottest_rank"] > 1.5


def test_fewer_experts_are_wider_and_passes_are_blocks():
    model = load_model("olmoe-1b-7b")
    switch = with_router(model, run("switch", 1.0, experts=8, top_k=1, width=8))
    experts = switch.layers[0].experts
    assert (experts.routed, experts.top_k, experts.ffn) == (8, 1, 8 * 1024)
    chain = with_router(model, run("chain", 1.0, passes=2))
    assert len(chain.layers) == 2 * len(model.layers)
    assert chain.layers[1].attention is None


def test_chains_take_longer():
    table = compare_routers([run("one", 1.0), run("two", 1.0, passes=2)], ["routers-gb200"])
    first, second = table["routers-gb200_step_s"]
    assert second > first
    with pytest.raises(KeyError):
        table["routers-h100_step_s"]
