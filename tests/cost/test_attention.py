"""Grouped-query attention: exact schedules of toy devices, physical bounds, the simulator's door, measured anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import attention_decode
from moesim.cost.attention import DECODE, PREFILL, gqa_decode, gqa_prefill
from moesim.cost.attention_decode import waves
from moesim.cost.attention_prefill import tile_work
from moesim.cost.family import default_fit, family_on, predict
from moesim.cost.fitting import cross_validate, fit
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS

BF16, FP8 = PRECISIONS["bf16"], PRECISIONS["fp8"]
TOY = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)
TPU = Device("toy tpu", "tpu", {"bf16": 4e14}, 95e9, 2.8e12, 8, matrix_unit=128)
H200 = Device("h200", "gpu", {"bf16": 989.4e12, "fp8": 1978.9e12}, 141e9, 4.8e12, 132, 50e6)
MACHINE = Machine(TOY)
TABLE = Path(__file__).parents[3] / "shared" / "measurements" / "attention.parquet"


def _rows(batch=1, new=1, earlier=0, heads=8, kv_heads=1, head_dim=128, window=0, dtype="bfloat16", cache="bfloat16"):
    values = (batch, new, earlier, heads, kv_heads, head_dim, window)
    numbers = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, dtype=float)) for value in values))
    names = ("batch_size", "isl", "step", "num_heads", "num_kv_heads", "head_dim", "window_size")
    text = {"dtype": np.full(len(numbers[0]), dtype), "kv_cache_dtype": np.full(len(numbers[0]), cache)}
    return dict(zip(names, numbers, strict=True)) | text


def _choices(family, **chosen):
    return {name: options[0] for name, options in family.choices.items()} | chosen


SHAPES = st.tuples(st.sampled_from([1, 2, 5, 8, 16]), st.sampled_from([1, 2, 7, 16, 128]))


@settings(deadline=None, max_examples=120)
@given(
    st.integers(1, 4096), st.integers(1, 2**20), SHAPES, st.sampled_from([64, 96, 192, 512]), st.sampled_from([0, 128]),
    st.sampled_from(["bfloat16", "fp8"]), st.sampled_from([TOY, H200, TPU]), st.data(),
)  # fmt: skip
def test_never_faster_than_bytes_or_flops(batch, context, shape, head_dim, window, cache, device, data):
    stored, group = shape
    decode = _rows(batch, 1, context - 1, stored * group, stored, head_dim, window, cache=cache)
    new = data.draw(st.integers(1, min(context, 16384)))
    prefill = _rows(batch, new, context - new, stored * group, stored, head_dim, window, cache=cache)
    for family, rows in ((DECODE, decode), (PREFILL, prefill)):
        family = family_on(family, device)
        choices = {name: data.draw(st.sampled_from(options)) for name, options in family.choices.items()}
        predicted = predict(family, device, rows, replace(default_fit(family), choices=choices))
        for bound in (predicted.memory_s, predicted.compute_s):
            assert 0 < bound <= predicted.seconds
            assert bound <= predicted.low <= predicted.seconds <= predicted.high < 1e6


def test_bounds_by_hand():
    rows = DECODE.prepare(TOY, _rows(batch=4, earlier=999, heads=32, kv_heads=8, head_dim=128))
    memory_s, compute_s = DECODE.bounds(TOY, rows)
    assert memory_s == pytest.approx(4 * 8 * 1000 * 256 * 2 / 4e12)
    assert compute_s == pytest.approx(4 * 4 * 32 * 1000 * 128 / 1e15)
    rows = PREFILL.prepare(TOY, _rows(batch=2, new=3, heads=4, kv_heads=4, head_dim=64))
    memory_s, compute_s = PREFILL.bounds(TOY, rows)
    assert memory_s == pytest.approx(2 * 3 * 4 * 128 * 2 / 4e12)
    assert compute_s == pytest.approx(4 * 2 * 4 * (1 + 2 + 3) * 64 / 1e15)


def test_bytes_in_cache_may_move_at_its_speed():
    device = Device("cached", "gpu", {"bf16": 1e15}, 80e9, 4e12, 100, cache_bytes=1e6)
    few, many = (DECODE.bounds(device, DECODE.prepare(device, _rows(earlier=n)))[0][0] for n in (999, 9999))
    assert many == pytest.approx(20 * few, rel=1e-3)


@settings(deadline=None)
@given(
    st.integers(1, 300), st.integers(0, 200), st.sampled_from([np.inf, 1.0, 40.0, 128.0]), st.sampled_from([1, 4, 64])
)
def test_tile_work_counts_what_a_loop_counts(new, earlier, window, covered):
    tiles, tokens, last = tile_work(*(np.array([float(v)]) for v in (new, earlier, window, covered)))
    seen = [min(earlier + (i + 1) * covered, earlier + new, window + covered) for i in range(-(-new // covered))]
    assert tiles == len(seen)
    assert tokens == pytest.approx(sum(seen))
    assert last == seen[-1]


def test_waves_between_smooth_and_whole():
    x = np.array([0.2, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(waves(x, 1.0), [1, 1, 2, 2])
    np.testing.assert_allclose(waves(x, 0.0), [1, 1, 1.5, 2])


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, [10, 8, 1]),  # 100 cores / 10 items; 8 tiles of 128 tokens; more items than cores
        ({"ctas_per_core": 2}, [20, 8, 1]),
        ({"most_splits": 4}, [4, 4, 1]),
        ({"least_tiles": 4}, [10, 2, 1]),
        ({"splits": "overfill"}, [10, 8, 1]),
        ({"splits": "square_root"}, [45, 8, 5]),  # sqrt(8·256), 8 blocks, 8·100/150
    ],
)
def test_splits_of_ten_items_on_a_hundred_cores(choices, expected):
    rows = DECODE.prepare(TOY, _rows(batch=[10, 10, 150], earlier=[32767, 1023, 1023]))
    splits = attention_decode._splits(TOY, rows, rows["batch"], _choices(DECODE, **choices))
    np.testing.assert_array_equal(splits, expected)


def test_the_second_kernel_takes_what_cannot_be_packed():
    rows = DECODE.prepare(TOY, _rows(batch=[1, 64, 64, 64], heads=[8, 8, 8, 64], kv_heads=[1, 1, 8, 1]))
    group = rows["heads"] / rows["stored_heads"]
    rules = {rule: attention_decode._unpacked(TOY, rows, group, rule).tolist() for rule in DECODE.choices["unpacked"]}
    assert rules["never"] == [False, False, False, False]
    assert rules["single"] == [False, False, True, False]
    assert rules["single_wide"] == [False, False, True, True]
    assert rules["single_wide_small"] == [True, False, True, True]


def test_a_window_cuts_the_cost_and_the_context_no_longer_matters():
    parameters = default_fit(DECODE).parameters
    rows = DECODE.prepare(TOY, _rows(batch=64, earlier=[127, 8191, 131071], window=128))
    at, beyond, far = DECODE.predict(TOY, rows, parameters, _choices(DECODE))
    assert beyond == far == pytest.approx(at + parameters["t_w"])


def test_zero_kv_heads_in_a_table_means_one_for_each_head():
    for family in (DECODE, PREFILL):
        fitted = default_fit(family)
        plain, named = (predict(family, TOY, _rows(4, 64, 0, 16, kv), fitted).seconds for kv in (0, 16))
        np.testing.assert_array_equal(plain, named)


@pytest.mark.parametrize("device", [TOY, TPU])
def test_costs_broadcast_and_say_what_limits_them(device):
    machine = Machine(device)
    contexts = np.array([1, 4096, 131072])
    cost = gqa_decode(
        machine, batch=np.array([[1], [64]]), context=contexts, heads=8, kv_heads=1, head_dim=128, window=None, kv=BF16
    )
    assert cost.seconds.shape == (2, 3)
    assert (cost.low <= cost.seconds).all()
    assert (cost.seconds <= cost.high).all()
    assert (np.diff(cost.seconds, axis=1) > 0).all()
    assert cost.limit[0, 0] == 0
    assert cost.limit[1, 2] == 1
    prefill = gqa_prefill(
        machine, batch=1, new_tokens=16384, context=0, heads=8, kv_heads=8, head_dim=128, window=None, kv=BF16
    )
    assert prefill.limit == 2


def test_earlier_chunks_add_to_prefill_and_fp8_caches_read_faster():
    shape = {"heads": 8, "kv_heads": 1, "head_dim": 128, "window": None}
    chunks = gqa_prefill(MACHINE, batch=1, new_tokens=2048, context=np.array([0, 2048, 30720]), kv=BF16, **shape)
    assert (np.diff(chunks.seconds) > 0).all()
    wide, narrow = (gqa_decode(MACHINE, batch=256, context=65536, kv=kv, **shape).seconds for kv in (BF16, FP8))
    assert 1.7 < wide / narrow < 2.05


def test_narrow_heads_waste_a_tpu_lane_tile():
    fitted = default_fit(family_on(PREFILL, TPU))
    narrow, full = (predict(PREFILL, TPU, _rows(8, 8192, 0, 8, 8, d), fitted).seconds for d in (64, 128))
    assert narrow == pytest.approx(full, rel=0.05)
    wide = replace(TPU, matrix_unit=256)  # a larger unit wastes as much again
    assert predict(PREFILL, wide, _rows(8, 8192, 0, 8, 8, 128), fitted).seconds == pytest.approx(2 * full, rel=0.05)


@pytest.mark.parametrize(
    ("family", "phase", "kernel", "dtype", "median"),
    [(DECODE, "decode", "fa3", "bfloat16", 0.08), (PREFILL, "prefill", "torch_flow", "fp8", 0.06)],
)
def test_held_out_shapes_of_measured_kernels(family, phase, kernel, dtype, median):
    pandas = pytest.importorskip("pandas")
    if not TABLE.exists():
        pytest.skip("measured tables are optional local data")
    table = pandas.read_parquet(TABLE)
    table = table.query("hardware == 'h200' and phase == @phase and kernel == @kernel and dtype == @dtype")
    table = table[table.kv_cache_dtype == dtype]
    rows = {column: table[column].to_numpy() for column in table if column != "row_id"}
    held_out = cross_validate(family, H200, rows, {"kernel": kernel})
    error = np.abs(held_out / rows["latency_s"] - 1)
    assert np.median(error) < median
    assert np.quantile(error, 0.9) < 0.25


def test_a_fit_recovers_the_schedule_that_made_the_data():
    rng = np.random.default_rng(0)
    rows = _rows(2 ** rng.integers(0, 11, 500), 1, 2 ** rng.integers(1, 17, 500) - 1, 16, 2 ** rng.integers(0, 4, 500))
    truth = default_fit(DECODE)
    choices = truth.choices | {"splits": "square_root", "tile_rows": 64}
    rows["latency_s"] = DECODE.predict(TOY, DECODE.prepare(TOY, rows), truth.parameters, choices)
    fitted = fit(DECODE, TOY, rows, {}, search_rows=500)
    assert fitted.choices["splits"] == "square_root"
    assert fitted.error[1] < 0.02
