"""Tables of kernel seconds and counts of kernels: what architecture, formats and degrees must change in them."""

import numpy as np
import pytest

from moesim.serving.expert_tables import UNPACK_BYTES_PER_S
from moesim.serving.grids import TOKENS
from moesim.serving.kernels import kernel_tables
from moesim.serving.loads import DrawnLoads
from moesim.serving.stack import kernel_counts
from moesim.study.validation.serving.rows import Configuration, deployment, profile


def server(model="minimax-m2.5", hardware="b200", precision="fp8", gpus=2, software="vllm", **degrees):
    return deployment(
        Configuration(hardware, model, software, precision, gpus, **({"ep": 1, "attention_dp": 1} | degrees))
    )


@pytest.fixture(scope="module")
def tables():
    return {gpus: kernel_tables(server(gpus=gpus), DrawnLoads(0.9)) for gpus in (2, 4)}


def test_dense_kernels_never_take_longer_for_fewer_tokens(tables):
    """Row counts that no padded graph has take a slow path in the measured tables."""
    assert (np.diff(tables[2].dense_s) >= -1e-9).all()


def test_more_ranks_share_the_work_and_add_reductions(tables):
    assert (tables[4].decoding.bytes_s < tables[2].decoding.bytes_s).all()
    assert tables[4].communication_s[0] > tables[2].communication_s[0] > 0


def test_a_norm_over_all_heads_adds_a_reduction_a_layer():
    """MiniMax normalises over all heads (three reductions a layer), Qwen3 over each (two)."""
    reductions = {}
    for model in ("minimax-m2.5", "qwen3-235b-a22b"):
        placed = server(model, gpus=2)
        seconds = kernel_tables(placed, DrawnLoads(0.0)).communication_s[0]
        reductions[model] = seconds / len(placed.model.layers)
    assert reductions["minimax-m2.5"] / reductions["qwen3-235b-a22b"] == pytest.approx(1.5, rel=0.05)


def test_narrow_weights_are_read_no_faster_than_they_are_unpacked():
    """gpt-oss multiplies in BF16 on Hopper: H200's faster memory helps its experts no more than its SMs allow."""
    seconds = {
        name: kernel_tables(server("gpt-oss-120b", name, "fp4"), DrawnLoads(0.0)).decoding.bytes_s[0, TOKENS == 64][0]
        for name in ("h100", "h200", "b200")
    }
    assert seconds["h200"] == pytest.approx(seconds["h100"])
    device = profile("h200").device
    assert device.cores * UNPACK_BYTES_PER_S < device.hbm_bytes_per_s
    assert seconds["b200"] < seconds["h200"] / 2  # multiplied as FP4, read at HBM's rate


def test_data_parallel_attention_pays_for_all_tokens_of_the_group():
    one = kernel_tables(server(gpus=4, ep=4, attention_dp=4), DrawnLoads(0.0))
    assert one.communication_s[-1] > 1.5 * kernel_tables(server(gpus=4, ep=4), DrawnLoads(0.0)).communication_s[-1]


def test_counts_of_kernels_follow_the_architecture():
    plain, heads = kernel_counts(server("qwen3-235b-a22b")), kernel_counts(server("minimax-m2.5"))
    assert heads.unpriced - plain.unpriced == pytest.approx(2)
    alone = kernel_counts(server("minimax-m2.5", gpus=1))
    assert heads.unpriced - alone.unpriced == pytest.approx(2)  # on one rank the norm stays in one kernel
    linear = kernel_counts(server("qwen3.5-397b-a17b"))
    assert linear.eager - linear.unpriced > 2 * (plain.eager - plain.unpriced)


def test_fused_experts_launch_fewer_kernels_on_blackwell_alone():
    def counted(hardware, software):
        return kernel_counts(server(hardware=hardware, software=software)).unpriced

    assert counted("h200", "sglang") == counted("h200", "vllm") == counted("b200", "vllm")
    assert counted("b200", "sglang") == counted("b200", "vllm") - 4
