"""Dense products: physical bounds, the tile search, and the simulator's door."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost.family import default_fit
from moesim.cost.gemm import GEMM, bounds, gemm, predict, select
from moesim.cost.machine import Machine
from moesim.cost.memory import memory_bound
from moesim.errors import InvalidInput
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS

DEVICE = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)
MACHINE = Machine(DEVICE)
BF16, FP8 = PRECISIONS["bf16"], PRECISIONS["fp8"]
SIZES = st.integers(1, 65536)


def _rows(m, n, k, dtype="bfloat16"):
    m, n, k = np.broadcast_arrays(*(np.atleast_1d(np.asarray(size, dtype=float)) for size in (m, n, k)))
    return {"m": m, "n": n, "k": k, "dtype": np.full(len(m), dtype)}


@settings(deadline=None, max_examples=150)
@given(SIZES, SIZES, SIZES, st.sampled_from(["bfloat16", "fp8", "fp8_block"]), st.data())
def test_never_faster_than_bytes_or_flops(m, n, k, dtype, data):
    choices = {name: data.draw(st.sampled_from(options)) for name, options in GEMM.choices.items()}
    rows = _rows(m, n, k, dtype)
    seconds = predict(DEVICE, rows, default_fit(GEMM).parameters, choices)
    memory_s, compute_s = bounds(DEVICE, rows)
    assert np.isfinite(seconds).all()
    assert seconds >= memory_s
    assert seconds >= compute_s


def test_bounds_by_hand():
    memory_s, compute_s = bounds(DEVICE, _rows(1000, 2000, 4000))
    assert memory_s == pytest.approx(2 * (1000 * 4000 + 2000 * 4000 + 1000 * 2000) / 4e12)
    assert compute_s == pytest.approx(2 * 1000 * 2000 * 4000 / 1e15)


@pytest.mark.parametrize("split_k", [False, True])
def test_the_chosen_tile_gives_the_searched_time(split_k):
    rows = _rows([1, 7, 64, 130, 5000], [4096, 64, 7168, 2112, 24576], [7168, 65536, 512, 7168, 1536])
    fitted = default_fit(GEMM)
    choices = fitted.choices | {"split_k": split_k}
    chosen = select(DEVICE, rows, fitted.parameters, choices)
    np.testing.assert_allclose(
        predict(DEVICE, chosen, fitted.parameters, choices), predict(DEVICE, rows, fitted.parameters, choices)
    )


def test_rows_by_m_take_the_next_power_of_two():
    rows = _rows([1, 17, 64, 65, 1000], 4096, 4096)
    fitted = default_fit(GEMM)
    tile = select(DEVICE, rows, fitted.parameters, fitted.choices | {"tile_m": ("by_rows", 16, 128)})["tile_m"]
    np.testing.assert_array_equal(tile, [16, 32, 64, 128, 128])


def test_splitting_k_helps_a_narrow_deep_product():
    rows = _rows(16, 128, 65536)
    fitted = default_fit(GEMM)
    plain, split = (predict(DEVICE, rows, fitted.parameters, fitted.choices | {"split_k": s}) for s in (False, True))
    assert split < 0.5 * plain


def test_one_more_tile_row_costs_a_wave():
    # 100 cores and n = 100 tiles of 256: m up to 128 fills one wave, 132 rows need two
    rows = _rows([128, 132], 25600, 8192)
    fitted = default_fit(GEMM)
    parameters = fitted.parameters | {"q": 1.0, "e_c": 0.3}
    choices = fitted.choices | {"tile_m": ("by_rows", 128, 128), "tile_n": (128, 256)}
    one, two = predict(DEVICE, rows, parameters, choices)
    assert two > 1.3 * one


def test_narrow_weights_save_time_when_memory_limits():
    wide = gemm(MACHINE, 16, 8192, 8192, weights=BF16, activations=BF16)
    narrow = gemm(MACHINE, 16, 8192, 8192, weights=PRECISIONS["int4"], activations=BF16)
    assert narrow.seconds < 0.6 * wide.seconds


def test_sparse_weights_halve_products_and_not_activations():
    arguments = {"weights": BF16, "activations": BF16}
    dense, sparse = (gemm(MACHINE, 8192, 8192, 8192, **arguments, sparse_2_4=s) for s in (False, True))
    assert 0.5 < sparse.seconds / dense.seconds < 0.6
    lone, thin = (gemm(MACHINE, 65536, 64, 8192, **arguments, sparse_2_4=s) for s in (False, True))
    assert thin.seconds > 0.8 * lone.seconds  # the activations set the time


def test_activations_that_are_quantised_already_save_the_pass():
    whole, rest = (gemm(MACHINE, 4096, 4096, 4096, weights=FP8, activations=FP8, quantise=q) for q in (True, False))
    p = default_fit(GEMM).parameters
    assert whole.seconds - rest.seconds == pytest.approx(p["c_a"] * 4096**2 / 4e12 + p["c_r"] * 4096 / 100)


def test_shapes_broadcast_and_empty_batches_cost_nothing():
    cost = gemm(MACHINE, [[0, 1], [64, 4096]], [4096, 4096], 7168, weights=FP8, activations=FP8)
    assert cost.seconds.shape == (2, 2)
    assert cost.seconds[0, 0] == cost.low[0, 0] == cost.high[0, 0] == 0
    assert (cost.low <= cost.seconds).all()
    assert (cost.seconds <= cost.high).all()
    assert (np.diff(cost.seconds.ravel()) > 0).all()


def test_a_format_that_the_chip_lacks_is_named():
    with pytest.raises(InvalidInput, match="toy has no fp4 matrix units"):
        gemm(MACHINE, 1, 64, 64, weights=PRECISIONS["nvfp4"], activations=PRECISIONS["nvfp4"])


def test_limits_are_named():
    small = gemm(MACHINE, 1, 64, 64, weights=BF16, activations=BF16)
    memory = gemm(MACHINE, 16, 16384, 16384, weights=BF16, activations=BF16)
    compute = gemm(MACHINE, 8192, 16384, 16384, weights=BF16, activations=BF16)
    assert [int(cost.limit) for cost in (small, memory, compute)] == [0, 1, 2]


def test_streaming_by_hand():
    cost = memory_bound(MACHINE, [0, 3.2e9])
    np.testing.assert_allclose(cost.seconds, [0, 2e-6 + 1e-3])
    assert cost.low[1] >= 3.2e9 / 4e12


def test_a_tpu_pads_to_its_matrix_unit_and_has_no_waves():
    tpu = Device("toy", "tpu", {"bf16": 1e15}, 80e9, 4e12, 8, matrix_unit=128)
    seconds = predict(tpu, _rows([1024, 1025, 1032], 8192, [8192, 8192, 8100]), default_fit(GEMM).parameters, {})
    assert seconds[1] == seconds[2]
    assert (seconds[1] - 4e-6) / (seconds[0] - 4e-6) == pytest.approx(1032 / 1024)
    narrow, wide = (
        predict(replace(tpu, matrix_unit=unit), _rows(8192, 2880, 2880), default_fit(GEMM).parameters, {})
        for unit in (128, 256)
    )
    assert (wide - 4e-6) / (narrow - 4e-6) == pytest.approx((3072 / 2944) ** 2)


def test_a_wafer_is_a_roofline():
    wafer = Device("toy", "wafer", {"bf16": 1e17}, 44e9, 2e16, 900_000)
    rows = _rows([1, 4096], 8192, 8192)
    expected = 4e-6 + np.max([bounds(wafer, rows)[0] / 0.85, bounds(wafer, rows)[1] / 0.75], axis=0)
    np.testing.assert_allclose(predict(wafer, rows, default_fit(GEMM).parameters, {}), expected)
