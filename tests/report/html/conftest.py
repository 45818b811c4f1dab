"""One small run of each kind, shared by the tests of reports."""

import pytest

from moesim.spec.loading import parse
from moesim.study.comparison.compare import compare
from moesim.study.placing.place import place
from moesim.study.planning.plan import plan_of
from moesim.study.serving_load.serve import serve_scenario
from moesim.study.step.run import run_scenario

pytest.importorskip("plotly", reason="reports need plotly: pip install '.[report]'")

SMALL = (
    "cluster.devices=4", "parallelism={attention_dp: 4, ep: 4}", "workload.sequences_per_rank=8",
    "placement={kind: contiguous, slots_per_rank: 2}",
)  # fmt: skip


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
