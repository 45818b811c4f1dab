"""Routed experts of a rank: exact small cases, what must hold for all loads, speed, and measured rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import experts_kernel
from moesim.cost.experts import routed_experts
from moesim.cost.experts_kernel import CHOICES, PARAMETERS
from moesim.cost.experts_table import EXPERTS, prepare
from moesim.cost.family import default_fit, predict
from moesim.cost.fitting import cross_validate, fit, groups_of
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS

MEASURED = Path(__file__).parents[2].parent / "shared" / "measurements" / "moe.parquet"
B200 = Device("b200", "gpu", {"bf16": 2.25e15, "fp8": 4.5e15, "fp4": 9e15}, 180e9, 7.7e12, 148)
H200 = Device("h200", "gpu", {"bf16": 989.4e12, "fp8": 1978.9e12}, 141e9, 4.8e12, 132)
TPU = Device("tpu", "tpu", {"bf16": 918e12, "int8": 1836e12}, 32e9, 1.64e12, 1, matrix_unit=128)
SHAPE = {"hidden": 4096, "ffn": 1536, "gated": True, "weights": PRECISIONS["bf16"], "activations": PRECISIONS["bf16"]}


def _seconds(tokens: list, device: Device = B200, **changes: object) -> np.ndarray:
    return routed_experts(Machine(device), np.array(tokens), **(SHAPE | changes)).seconds


def test_a_rank_without_tokens_costs_nothing_and_the_shape_is_kept() -> None:
    cost = routed_experts(Machine(B200), np.array([[[0, 0], [3, 0]]]), **SHAPE)
    assert cost.seconds.shape == (1, 2)
    assert cost.limit.shape == (1, 2)
    assert cost.seconds[0, 0] == 0
    assert cost.low[0, 0] < cost.seconds[0, 1] < cost.high[0, 1]


def test_skew_is_cheaper_for_few_tokens_and_costs_tiles_for_many() -> None:
    spread, skewed = _seconds([[1] * 16, [16] + [0] * 15])
    assert skewed < 0.5 * spread  # one expert's weights instead of sixteen
    even, ragged = _seconds([[128] * 8, [129] * 7 + [121]])
    assert ragged >= even  # seven more tiles for the same pairs


def test_ungated_experts_move_two_thirds_of_the_weights() -> None:
    gated, ungated = (_seconds([[1] * 128], gated=gated)[0] for gated in (True, False))
    assert 0.6 < ungated / gated < 0.72


def test_narrow_weights_are_cheaper_where_weights_are_what_moves() -> None:
    bf16 = _seconds([[1] * 64])[0]
    fp4 = _seconds([[1] * 64], weights=PRECISIONS["nvfp4"], activations=PRECISIONS["nvfp4"])[0]
    assert 0.25 < fp4 / bf16 < 0.5


def test_scales_of_fp8_blocks_of_weights_weigh_nothing() -> None:
    assert experts_kernel.weight_bytes(PRECISIONS["fp8_block"]) == pytest.approx(1.000244, abs=1e-6)
    assert experts_kernel.weight_bytes(PRECISIONS["nvfp4"]) == 0.5625


def test_a_ragged_tpu_product_by_hand() -> None:
    # two experts, 100 and 156 tokens: one tile of 128 holds two thirds of them on average, 128 rows a tile
    cost = routed_experts(Machine(TPU), np.array([[100, 156]]), **(SHAPE | {"hidden": 1024, "ffn": 512}))
    rows = (np.ceil(256 / 128) + 1) * 128
    products = 2 * rows * (2 * 512 * 1024 + 1024 * 512) / (0.6 * 918e12)
    weights = 2 * 3 * 1024 * 512 * 2 / (0.75 * 1.64e12)
    passes = 256 * (2 * 1024 + 3 * 512) * 2 / (0.5 * 1.64e12)
    assert weights > products
    assert cost.seconds[0] == pytest.approx(10e-6 + weights + passes + 2e-7, rel=1e-6)
    assert cost.low[0] == pytest.approx(cost.seconds[0] / 2)
    assert cost.high[0] == pytest.approx(2 * cost.seconds[0])


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 4000), min_size=1, max_size=16), hidden=st.sampled_from([1024, 2880, 7168]),
    ffn=st.sampled_from([64, 704, 2048]), gated=st.booleans(), dtype=st.sampled_from(["bf16", "fp8", "fp8_block"]),
    device=st.sampled_from([B200, H200]),
)  # fmt: skip
def test_never_below_bytes_and_flops(
    tokens: list[int], hidden: int, ffn: int, gated: bool, dtype: str, device: Device
) -> None:
    precision = PRECISIONS[dtype]
    cost = routed_experts(
        Machine(device), np.array(tokens), hidden=hidden, ffn=ffn, gated=gated, weights=precision, activations=precision
    )
    loads, matrix = np.array(tokens), (3 if gated else 2) * hidden * ffn
    memory = np.count_nonzero(loads) * matrix * experts_kernel.weight_bytes(precision) / device.hbm_bytes_per_s
    compute = 2 * loads.sum() * matrix / device.peak[precision.compute]
    assert cost.low >= max(memory, compute) * (1 - 1e-9)
    assert cost.seconds >= cost.low
    assert cost.high >= cost.seconds


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(0, 500), min_size=2, max_size=8), slot=st.integers(0, 7), seed=st.integers(0, 99))
def test_order_of_slots_does_not_matter(tokens: list[int], slot: int, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(tokens).tolist()
    assert _seconds([tokens])[0] == _seconds([shuffled])[0]


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([1.5, 3.0]), name=st.sampled_from(["t0", "c_t", "c_k", "t_s", "t_e", "t_w"]),
    load=st.sampled_from(CHOICES["tile_load"]), tokens=st.lists(st.integers(1, 900), min_size=4, max_size=4),
)  # fmt: skip
def test_every_cost_adds(scale: float, name: str, load: str, tokens: list[int]) -> None:
    base = default_fit(EXPERTS)
    base = replace(base, choices={**base.choices, "tile_load": load})
    more = replace(base, parameters={**base.parameters, name: PARAMETERS[name].start * scale})
    rows = _rows(num_tokens=tokens)
    assert (predict(EXPERTS, B200, rows, more).seconds >= predict(EXPERTS, B200, rows, base).seconds).all()


def test_select_is_the_minimum_that_predict_finds() -> None:
    base = default_fit(EXPERTS)
    rows = prepare(B200, _rows(num_tokens=[1, 30, 512, 8000]))
    for load in CHOICES["tile_load"]:
        choices = {**base.choices, "tile_load": load, "smallest_tile": 16, "tile_n": 64}
        chosen = EXPERTS.select(B200, rows, base.parameters, choices)
        searched = EXPERTS.predict(B200, rows, base.parameters, choices)
        np.testing.assert_allclose(EXPERTS.predict(B200, chosen, base.parameters, choices), searched, rtol=1e-6)


def test_a_step_of_all_layers_and_ranks_is_priced_at_once() -> None:
    tokens = np.random.default_rng(0).poisson(20, (58, 72, 4))
    cost = routed_experts(Machine(B200), tokens, **SHAPE)
    assert cost.seconds.shape == (58, 72)
    one = routed_experts(Machine(B200), tokens[7, 3], **SHAPE)
    np.testing.assert_allclose(cost.seconds[7, 3], one.seconds)


def _rows(**changes: object) -> dict[str, np.ndarray]:
    row = {
        "num_tokens": 64, "hidden_size": 4096, "expert_ffn": 1536, "top_k": 8, "experts": 128, "expert_tp": 1, "ep": 4,
        "distribution": "balanced", "dtype": "bfloat16", "kernel": "moe_torch_flow_cutlass", "software": "trtllm 1.0",
    }  # fmt: skip
    rows = {name: np.atleast_1d(np.asarray(value)) for name, value in (row | changes).items()}
    return dict(zip(rows, np.broadcast_arrays(*rows.values()), strict=True))


def test_the_table_says_gate_and_groups_where_columns_do_not() -> None:
    nemotron = {"hidden_size": 2688, "expert_ffn": 1856, "top_k": 6}
    kernels = np.array(["moe_torch_flow_nongated", "sglang_fused_moe_triton"])
    assert prepare(B200, _rows(**nemotron, kernel=kernels))["gated"].tolist() == [0, 1]
    deepseek = {"hidden_size": 7168, "expert_ffn": 2048, "experts": 256, "ep": 1}
    kernels = np.array(["deepgemm", "sglang_fused_moe_triton"])
    assert prepare(B200, _rows(**deepseek, kernel=kernels))["touched"].tolist() == [256, 128]


def test_generic_values_know_the_kind_of_kernel() -> None:
    generated = EXPERTS.starts({"kernel": "sglang_flashinfer_trtllm_moe", "dtype": "nvfp4"})
    triton = EXPERTS.starts({"kernel": "vllm_fp8moe_triton_tritonexperts", "dtype": "fp8_block"})
    widening = EXPERTS.starts({"kernel": "vllm_marlin", "dtype": "int4_wo"})
    assert len({generated["t0"], triton["t0"], widening["t0"]}) == 3
    for own in (generated, triton, widening, EXPERTS.starts({"kernel": "anything", "dtype": "fp8"})):
        assert all(PARAMETERS[name].low <= value <= PARAMETERS[name].high for name, value in own.items())


def test_a_fit_recovers_what_made_the_times() -> None:
    rng = np.random.default_rng(1)
    rows = _rows(num_tokens=2 ** rng.integers(0, 15, 300), ep=rng.choice([1, 4, 16, 64], 300))
    truth = default_fit(EXPERTS)
    truth = replace(truth, parameters={**truth.parameters, "t0": 40e-6, "e_m": 0.7, "c_t": 20.0})
    rows["latency_s"] = predict(EXPERTS, B200, rows, truth).seconds
    fitted = fit(EXPERTS, B200, rows, {"kernel": "moe_torch_flow_cutlass", "dtype": "bfloat16"})
    assert fitted.error[1] < 0.03
    assert fitted.parameters["t0"] == pytest.approx(40e-6, rel=0.1)


@pytest.mark.skipif(not MEASURED.exists(), reason="the measured table is not part of the package")
@pytest.mark.parametrize(
    ("kernel", "median", "p90"),
    [("sglang_fused_moe_triton", 0.07, 0.24), ("vllm_fp8moe_triton_tritonexperts", 0.06, 0.20)],
)
def test_held_out_shapes_of_a_measured_kernel(kernel: str, median: float, p90: float) -> None:
    import pandas as pd

    table = pd.read_parquet(MEASURED)
    table = table[(table["hardware"] == "h200") & (table["kernel"] == kernel) & (table["dtype"] == "fp8_block")]
    ((key, index),) = groups_of(EXPERTS, table)
    some = table.iloc[index].sample(600, random_state=0)
    rows = {column: some[column].to_numpy() for column in some}
    error = np.abs(cross_validate(EXPERTS, H200, rows, key) / rows["latency_s"] - 1)
    assert np.median(error) < median
    assert np.quantile(error, 0.9) < p90
