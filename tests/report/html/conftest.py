"""One small run of each kind, shared by the tests of reports."""

import pytest

from moesim.spec.reading.loading import parse
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.comparison.compare import compare
from moesim.study.placing.place import place
from moesim.study.planning.plan import plan_of
from moesim.study.planning.training_plan import training_plan_of
from moesim.study.reliability.service_runs import service_of
from moesim.study.reliability.training_runs import runs_of
from moesim.study.serving_load.serve import serve_scenario
from moesim.study.step.run import run_scenario
from moesim.study.sweeps.grid import parse_axis, read_grid
from moesim.study.sweeps.sweep import run_grid

pytest.importorskip("plotly", reason="reports need plotly: pip install '.[report]'")

SMALL = (
    "cluster.devices=4", "parallelism={attention_dp: 4, ep: 4}", "workload.sequences_per_rank=8",
    "placement={kind: contiguous, slots_per_rank: 2}",
)  # fmt: skip


TRAINING_PLAN = """
tokens: 20e9
alternatives:
  - {name: as shipped, step: {scenario: mixtral-8x7b-training-h100, set: [workload.global_batch=64]}, spares: 1}
  - name: balanced
    step: {scenario: mixtral-8x7b-training-h100, set: [workload.global_batch=64, 'routing={kind: balanced}']}
failures: {detection: 2 min, device: {mtbf: 20000 h, repair: 6 h}}
recovery: {kind: restart, restart: 5 min}
checkpoint: {kind: sharded, interval: 30 min, bandwidth: 200 GB/s, node_bandwidth: 5 GB/s, storage: 1 PB, keep: 3}
economics: {rent: {h100: 2 USD/h}, pue: 1.25, carbon: 400 g/kWh}
seeds: 3
"""


@pytest.fixture(scope="session")
def training_planned():
    return training_plan_of(parse(TRAINING_PLAN))


@pytest.fixture(scope="session")
def planned(plan_text):
    return plan_of(parse(plan_text))


@pytest.fixture(scope="session")
def unmet(plan_text):
    return plan_of(parse(plan_text.replace("40 ms", "2 ms")))


@pytest.fixture(scope="session")
def step():
    return run_scenario("placement-mixtral-h100", SMALL)


@pytest.fixture(scope="session")
def training():
    return run_scenario("mixtral-8x7b-training-h100", ("workload.global_batch=64",))


@pytest.fixture(scope="session")
def comparison():
    return compare("mixtral-8x7b-h100", None, ["workload.context=512"])


@pytest.fixture(scope="session")
def study():
    return place("placement-mixtral-h100", SMALL, policies=["contiguous", "random", "eplb"], judge_on=["python"])


@pytest.fixture(scope="session")
def served():
    return serve_scenario("serving-qwen3-h100-bursty", ("load.requests=120", "load.warmup=10"))


@pytest.fixture(scope="session")
def weeks():
    document = read_scenario("resilience-2048-gpus", ["seeds=4"])
    return document, runs_of(document)


@pytest.fixture(scope="session")
def service():
    document = read_scenario("resilience-service-h200", ["serving.set=['load.requests=400']", "seeds=4"])
    return document, service_of(document)


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """(grid, its runs) of two contexts and three batches, one of which does not fit."""
    over = ["workload.context=1024,4096", "workload.sequences_per_rank=8,32,1000000"]
    grid = read_grid("placement-mixtral-h100", [parse_axis(text) for text in over], SMALL)
    return grid, run_grid(grid, folder=tmp_path_factory.mktemp("sweep"), jobs=1)
