"""Which groups stay inside a node, a domain or an axis of a torus, and what their collectives carry."""

import numpy as np
import pytest

from moesim.hardware.fabrics import build_cluster
from moesim.model.parallelism import Parallelism
from moesim.spec.hardware.profile import load_profile
from moesim.study.inspection.explain import explain
from moesim.study.inspection.layout import Layout
from moesim.study.inspection.span import local_index, span


def spans(hardware, devices, parallelism, **options):
    cluster = build_cluster(load_profile(hardware), devices, **options)
    layout = Layout("", "", cluster, parallelism, devices // parallelism.devices, ())
    return {axis: span(cluster, groups) for axis, groups in layout.axes().items()}


def test_tensor_parallelism_inside_the_node_and_stages_along_rails():
    found = spans("h100", 32, Parallelism(32, attention_dp=2, tp=8, ep=16, pp=2))
    assert found == {
        "tp": "inside a node",
        "dp": "over 2 nodes, one local rank each (a rail)",
        "pp": "over 2 nodes, one local rank each (a rail)",
        "ep": "over 2 nodes",
    }


def test_another_order_turns_them_around():
    found = spans("h100", 16, Parallelism(16, tp=8, ep=8, pp=2, order=("pp", "tp", "cp", "dp")))
    assert found["pp"] == "inside a node"
    assert found["tp"] == "over 2 nodes"


def test_a_rack_is_one_domain():
    found = spans("gb200_nvl72", 72, Parallelism(72, attention_dp=18, tp=4, ep=72))
    assert found["tp"] == "inside a node"
    assert found["ep"] == "inside a scale-up domain of 72, over 18 nodes"
    across = spans("gb200_nvl72", 144, Parallelism(144, attention_dp=72, pp=2, ep=72))
    assert across["ep"] == "inside a scale-up domain of 72, over 18 nodes"
    assert across["pp"] == "over 2 scale-up domains, 2 nodes, one local rank each (a rail)"


def test_axes_of_a_torus():
    found = spans("tpu_v5p", 64, Parallelism(64, attention_dp=4, tp=4, cp=4, ep=64), shape=(4, 4, 4))
    assert found["tp"] == "along axis 2 (4) of the torus 4 × 4 × 4"
    assert found["cp"] == "along axis 1 (4) of the torus 4 × 4 × 4"
    assert found["dp"] == "along axis 0 (4) of the torus 4 × 4 × 4"


def test_instances_have_groups_of_their_own():
    layout = Layout("", "", build_cluster(load_profile("h100"), 16), Parallelism(8, attention_dp=4, tp=2, ep=8), 2, ())
    assert layout.axes()["ep"].tolist() == [list(range(8)), list(range(8, 16))]
    assert layout.axes()["tp"][4].tolist() == [8, 9]


def test_local_index_of_scattered_nodes():
    assert local_index(np.array([0, 1, 0, 1, 0])).tolist() == [0, 0, 1, 1, 2]


def test_bytes_of_a_pipeline():
    _, data = explain("deepseek-v3-pipeline-h100")
    rows = {(row["axis"], row["collective"]): row for row in data["collectives"]}
    # each stage: an all-reduce behind attention and one behind the feed-forward part, for each of two micro-batches
    assert rows["tp", "all_reduce"]["calls_per_step"] == 2 * 61
    hidden = 32 * 7168 * 2 / 8  # a slice of 32 tokens in BF16
    token = 32 * 4
    # three rounds hand two micro-batches over, two of them hand sampled tokens back
    assert rows["pp", "send"]["bytes_per_step"] == pytest.approx((6 * hidden + 4 * token) / 3)
    assert data["order"] == ["tp", "pp"]
