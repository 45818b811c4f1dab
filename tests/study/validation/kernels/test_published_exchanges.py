"""Published dispatch and combine times: which figures are read, what traffic stands for them."""

import numpy as np
import pytest

from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.kernels.published_exchanges import even_copies, published_exchanges

FIGURE = {
    "id": "x-1", "source": "a README", "kind": "collective", "hardware": "H800 + CX7", "num_devices": 16,
    "precision": "FP8", "batch": "128 tokens/rank", "software": "DeepEP V1", "value": 118.0, "unit": "us",
    "metric": "dispatch latency (low-latency kernel)",
}  # fmt: skip


def test_a_time_is_read_and_predicted():
    found = published_exchanges([FIGURE], load_profile)
    row = found.iloc[0]
    assert (row.hardware, row.kernel, row.ranks, row.tokens) == ("h800", "deepep_low_latency", 16, 128)
    assert row.published_s == pytest.approx(118e-6)
    assert abs(row.error) < 0.15


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "GB/s", "metric": "dispatch bottleneck bandwidth"},
        {"kind": "inference"},
        {"hardware": "a wafer"},
        {"batch": ""},
        {"metric": "EP all-to-all time (dispatch + combine)"},
        {"metric": "dispatch layout kernel"},
    ],
)
def test_other_figures_are_left_out(change):
    assert published_exchanges([FIGURE | change], load_profile).empty


@pytest.mark.parametrize("level", ["expert", "rank", "node"])
def test_even_copies_reach_every_rank_alike(level):
    node = np.arange(32) // 8
    copies = even_copies(32, 1000, level, node, perfect=False)
    assert np.ptp(copies.sum(axis=0)) == pytest.approx(0, abs=1e-6)
    chosen = np.argsort(np.random.default_rng(0).random((4000, 256)), axis=1)[:, :8] // 8  # ranks of random experts
    ranks = np.mean([len(set(row)) for row in chosen.tolist()])
    away = np.mean(
        [len({rank // 8 for rank in row} - {0}) for row in chosen.tolist()]
    )  # other nodes of rank 0's tokens
    expected = {"expert": 8.0, "rank": ranks, "node": away + ranks}[level]
    assert copies.sum() / 32 / 1000 == pytest.approx(expected, rel=0.01)


def test_a_perfect_router_hits_as_many_ranks_as_it_can():
    node = np.zeros(4, dtype=int)
    assert even_copies(4, 10, "rank", node, perfect=True).tolist() == np.full((4, 4), 10.0).tolist()
    assert even_copies(16, 10, "rank", np.zeros(16, dtype=int), perfect=True)[0, 0] == 5
