"""Fits on toy families, where the true parameters are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost.family import Family, Fit, Parameter, default_fit, doublings_outside, predict
from moesim.cost.fitting import conformal_interval, cross_validate, fit, shape_folds, with_held_out
from moesim.errors import InvalidInput
from moesim.hardware.device import Device

DEVICE = Device("toy", "gpu", {"bf16": 1e12}, 1e9, 1e9, 10)


def _streaming(device, rows, p, choices):
    copies = 2.0 if choices["twice"] else 1.0
    return p["t0"] + copies * rows["size"] * rows["width"] / (device.hbm_bytes_per_s * p["share"])


STREAM = Family(
    name="stream",
    columns=("size", "width"),
    shape=("width",),
    size="size",
    numeric=("size",),
    parameters={"t0": Parameter(1e-6, 1e-9, 1e-3, "s", ""), "share": Parameter(0.9, 0.6, 1.0, "1", "")},
    predict=_streaming,
    bounds=lambda device, rows: (rows["size"] * rows["width"] / device.hbm_bytes_per_s, 0 * rows["size"]),
    choices={"twice": (False, True)},
    group=(),
)


def _rows(t0: float, share: float, twice: bool, noise: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = {"size": 2.0 ** rng.integers(0, 24, 300), "width": rng.integers(1, 13, 300).astype(float)}
    exact = _streaming(DEVICE, rows, {"t0": t0, "share": share}, {"twice": twice})
    return rows | {"latency_s": exact * np.exp(noise * rng.standard_normal(300))}


def test_rows_of_little_weight_hardly_pull_the_fit():
    rows = _rows(2.5e-5, 0.7, False)
    wrong = np.arange(300) % 2 == 1
    rows["latency_s"] = rows["latency_s"] * np.where(wrong, 1.2, 1.0)
    even, trusted = (fit(STREAM, DEVICE, rows | {"weight": np.where(wrong, w, 1.0)}, {}) for w in (1.0, 0.05))
    assert trusted.parameters["t0"] == pytest.approx(2.5e-5, rel=0.02)
    assert even.parameters["t0"] > 1.05 * 2.5e-5


@pytest.mark.parametrize("twice", [False, True])
def test_recovers_the_parameters_and_the_choice_that_made_the_data(twice):
    fitted = fit(STREAM, DEVICE, _rows(2.5e-5, 0.7, twice), {})
    assert fitted.choices == {"twice": twice}
    assert fitted.parameters["t0"] == pytest.approx(2.5e-5, rel=1e-3)
    assert fitted.parameters["share"] == pytest.approx(0.7, rel=1e-3)
    assert (fitted.points, fitted.shapes) == (300, 12)


def test_rows_five_times_too_slow_hardly_move_a_fit():
    rows = _rows(2.5e-5, 0.7, False)
    rows["latency_s"][::20] *= 5
    assert fit(STREAM, DEVICE, rows, {}).parameters["t0"] == pytest.approx(2.5e-5, rel=0.02)


def test_a_parameter_stops_at_its_bound():
    rows = _rows(2.5e-5, 0.7, False)
    rows["latency_s"] *= 2  # would need a share of 0.35, or two passes
    single = Family(**{name: getattr(STREAM, name) for name in STREAM.__slots__} | {"choices": {"twice": (False,)}})
    assert fit(single, DEVICE, rows, {}).parameters["share"] == pytest.approx(0.6, rel=1e-6)


def test_a_held_out_prediction_does_not_depend_on_its_own_measurement():
    rows = _rows(2.5e-5, 0.7, False, noise=0.05)
    before = cross_validate(STREAM, DEVICE, rows, {})
    spoilt = rows["width"] == 3
    after = cross_validate(STREAM, DEVICE, rows | {"latency_s": np.where(spoilt, 7.0, rows["latency_s"])}, {})
    np.testing.assert_array_equal(before[spoilt], after[spoilt])
    assert not np.array_equal(before[~spoilt], after[~spoilt])


def test_folds_hold_whole_shapes():
    rows = _rows(1e-5, 0.8, False)
    fold = shape_folds(STREAM, rows, 5)
    assert all(len(set(fold[rows["width"] == width])) == 1 for width in set(rows["width"]))
    assert set(fold) == set(range(5))


def test_a_single_shape_is_not_held_out():
    rows = _rows(1e-5, 0.8, False)
    rows["width"][:] = 4
    assert np.isnan(cross_validate(STREAM, DEVICE, rows, {})).all()


def test_intervals_of_held_out_shapes_cover_four_of_five_rows():
    rows = _rows(2.5e-5, 0.7, False, noise=0.1)
    fitted = with_held_out(fit(STREAM, DEVICE, rows, {}), cross_validate(STREAM, DEVICE, rows, {}), rows["latency_s"])
    given_rows = predict(STREAM, DEVICE, rows, fitted)
    inside = (given_rows.low <= rows["latency_s"]) & (rows["latency_s"] <= given_rows.high)
    assert fitted.held_out
    assert 0.75 < inside.mean() < 0.87
    # 80 % of a normal with sigma 0.1 lie within +-0.128
    assert fitted.interval[1] / fitted.interval[0] == pytest.approx(np.exp(0.256), rel=0.1)


def test_few_residuals_widen_the_interval():
    residuals = np.linspace(-1, 1, 201)
    few, many = conformal_interval(residuals[::20]), conformal_interval(residuals)
    assert few[1] / few[0] > many[1] / many[0]


@settings(deadline=None, max_examples=40)
@given(size=st.floats(1, 1e9), width=st.floats(1, 100), share=st.floats(0.1, 50), low=st.floats(0.01, 0.99))
def test_no_prediction_and_no_interval_beats_physics(size, width, share, low):
    rows = {"size": np.array([size]), "width": np.array([width])}
    fitted = Fit("stream", {}, {"t0": 1e-12, "share": share}, {"twice": False}, interval=(low, 1.1))
    found = predict(STREAM, DEVICE, rows, fitted)
    assert found.memory_s <= found.low <= found.seconds <= found.high


def test_outside_the_calibrated_range_the_interval_widens():
    fitted = fit(STREAM, DEVICE, _rows(2.5e-5, 0.7, True), {})
    rows = {"size": np.array([2.0**20, 2.0**27]), "width": np.array([4.0, 4.0])}
    found = predict(STREAM, DEVICE, rows, fitted)
    assert found.outside[0] == 0 < found.outside[1]
    width = found.high / found.low
    assert width[1] > 1.5 * width[0]


def test_doublings_outside_count_both_ends():
    rows = {"size": np.array([1.0, 8.0, 64.0, 512.0])}
    np.testing.assert_allclose(doublings_outside(rows, {"size": (4.0, 128.0)}), [2, 0, 0, 2])


def test_defaults_are_the_starts():
    assert default_fit(STREAM).parameters == {"t0": 1e-6, "share": 0.9}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows | {"latency_s": np.where(np.arange(300) == 7, -1.0, rows["latency_s"])}, "row 7"),
        (lambda rows: {name: values[:1] for name, values in rows.items()}, "1 points cannot fit 2 parameters"),
        (lambda rows: rows | {"size": np.full(300, 64.0)}, "all rows have one size"),
    ],
)
def test_unfittable_rows_are_named(spoil, message):
    with pytest.raises(InvalidInput, match=message):
        fit(STREAM, DEVICE, spoil(_rows(1e-5, 0.8, False)), {"kernel": "copy"})
