"""The expert-parallel layer computes what a dense one does, on one process and on two; passes are what they say."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moesim.lab.closed_loop import balanced, passes
from moesim.lab.expert_parallel import ExpertWeights, moe_layer, routed_rows
from moesim.lab.microbench import CPU_SWEEP
from moesim.lab.place import Place
from moesim.routing.trace import RouterTrace

HIDDEN, FFN, EXPERTS, TOP_K, TOKENS = 16, 12, 6, 3, 10

# What one rank of two does; the test's own process cannot hand over a function, because tests are no package.
RANK = """
import sys
import torch
import torch.distributed as dist
from moesim.lab.expert_parallel import ExpertWeights, moe_layer

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
case = torch.load(f"{folder}/case.pt")
tokens, experts = len(case["x"]) // 2, len(case["down"]) // 2
mine, held = slice(rank * tokens, (rank + 1) * tokens), slice(rank * experts, (rank + 1) * experts)
weights = ExpertWeights(case["gate_up"][held], case["down"][held])
out = moe_layer(case["x"][mine], case["ids"][mine], case["gates"][mine], weights, dist.group.WORLD)
torch.save(out, f"{folder}/out{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture
def case():
    rng = torch.Generator().manual_seed(1)
    ids = torch.rand(TOKENS, EXPERTS, generator=rng).topk(TOP_K).indices
    ids[: TOKENS // 2] = torch.tensor([0, 1, 2])  # the first rank's tokens stay at home
    return {
        "x": torch.randn(TOKENS, HIDDEN, generator=rng),
        "ids": ids,
        "gates": torch.rand(TOKENS, TOP_K, generator=rng),
        "gate_up": torch.randn(EXPERTS, HIDDEN, 2 * FFN, generator=rng),
        "down": torch.randn(EXPERTS, FFN, HIDDEN, generator=rng),
    }


def dense(x, ids, gates, gate_up, down):
    """Every expert on every token, then the chosen ones weighted."""
    gate, up = torch.einsum("th,ehf->tef", x, gate_up).chunk(2, dim=2)
    outputs = torch.einsum("tef,efh->teh", F.silu(gate) * up, down)
    chosen = torch.gather(outputs, 1, ids.unsqueeze(2).expand(-1, -1, outputs.shape[2]))
    return (gates.unsqueeze(2) * chosen).sum(1)


def test_one_process_computes_the_dense_layer(case):
    out = moe_layer(case["x"], case["ids"], case["gates"], ExpertWeights(case["gate_up"], case["down"]))
    torch.testing.assert_close(out, dense(**case), rtol=1e-4, atol=1e-4)


def test_two_processes_compute_the_dense_layer(case, tmp_path):
    torch.save(case, tmp_path / "case.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    out = torch.cat([torch.load(tmp_path / f"out{rank}.pt") for rank in (0, 1)])
    torch.testing.assert_close(out, dense(**case), rtol=1e-4, atol=1e-4)


def test_rows_come_back_in_the_order_they_arrived_in(case):
    """Two sources, each sorted by expert, some experts without rows."""
    counts = torch.tensor([[2, 0, 1, 0, 0, 0], [1, 0, 0, 0, 3, 0]])
    rows = torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(2))
    expert = torch.tensor([0, 0, 2, 0, 4, 4, 4])
    found = routed_rows(rows, counts, ExpertWeights(case["gate_up"], case["down"]))
    wanted = dense(rows, expert.unsqueeze(1), torch.ones(7, 1), case["gate_up"], case["down"])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("experts", "top_k", "tokens"), [(256, 8, 16), (256, 8, 512), (8, 2, 64), (128, 8, 3)])
def test_balanced_loads_differ_by_at_most_one(experts, top_k, tokens):
    ids = balanced(experts, top_k, tokens)[0]
    assert all(len(set(row)) == top_k for row in ids.tolist())
    load = np.bincount(ids.ravel(), minlength=experts)
    assert np.ptp(load) <= 1
    assert np.ptp(load.reshape(2, -1).sum(1)) <= top_k


@pytest.fixture(scope="module")
def traces():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((400, 2, 8)), axis=2)[:, :, :2].astype(np.uint8)
    return {"toy": RouterTrace("toy", ids, np.arange(0, 401, 100), experts=8)}


def test_passes_cover_routings_sizes_and_processes(traces):
    made = passes(Place("cpu", 2), traces, np.random.default_rng(0))
    assert len(made) == len({run.key for run in made}) == 3 * 3 * 2
    assert {run.routing for run in made} == {"balanced", "skewed", "captured"}
    assert {run.processes for run in made} == {1, 2}
    for run in made:
        assert run.ids.shape == (2, run.processes * run.tokens, 2)
        assert 0 <= run.ids.min() <= run.ids.max() < 8


def test_skew_fills_the_first_rank(traces):
    made = passes(Place("cpu", 2), traces, np.random.default_rng(0), copies=(512,))
    share = {run.routing: np.mean(run.ids < 4) for run in made if run.processes == 2}
    assert share["balanced"] == pytest.approx(0.5, abs=0.01)
    assert share["skewed"] > 0.6


def test_no_pass_has_a_calibrated_shape(traces):
    calibrated = {(hidden, ffn) for hidden, ffn, _, _ in CPU_SWEEP.experts}
    assert not calibrated & {(run.hidden, run.ffn) for run in passes(Place("cpu", 2), traces, np.random.default_rng(0))}
