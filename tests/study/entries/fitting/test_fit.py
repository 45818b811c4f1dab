"""The hierarchical fit: known factors come back, strangers borrow, signs hold."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.study.entries.calibration.factors import Calibration, Factors, load_calibration
from moesim.study.entries.fitting import hierarchy
from moesim.study.entries.fitting.fit import Figure, calibration_text, fit_calibration, held_out
from moesim.study.entries.fitting.hierarchy import Row, Spreads, fit_terms
from moesim.study.entries.runs.outcome import Outcome

SHARES = [(0.7, 0.2, 0.1), (0.2, 0.7, 0.1), (0.4, 0.2, 0.4), (0.1, 0.3, 0.6), (0.5, 0.4, 0.1), (0.3, 0.3, 0.4)]


def outcome(experts, dense, bubble, passes=0.0, scans=0.0):
    seconds = {"experts": experts, "dense": dense, "bubble": bubble}
    return Outcome(8, 8, sum(seconds.values()), seconds, passes=passes, scans=scans)


def stretched(shares, factors):
    """Experts and dense products by their factors, the bubble as often as long as them as it was, by its own."""
    (experts, dense, bubble), (of_experts, of_dense, of_bubble) = shares, factors
    return (of_experts * experts + of_dense * dense) * (1 + of_bubble * bubble / (1 - bubble))


def rows(factors, stack="megatron", form="fp8", age=0.0, level=1.0):
    found = []
    for shares in SHARES:
        wanted = stretched(shares, factors) * level
        found.append(Row(stack, form, outcome(*shares), age, wanted))
    return found


def test_factors_of_kinds_of_work_come_back():
    terms = fit_terms(rows((1.4, 0.9, 1.1)) * 20)
    found = [terms.factor(kind, "megatron", "fp8") for kind in ("experts", "dense", "bubble")]
    assert found == pytest.approx([1.4, 0.9, 1.1], rel=0.02)


def test_few_figures_move_little_and_outliers_hardly_more():
    one = fit_terms([Row("megatron", "fp8", outcome(1.0, 0.0, 0.0), 0.0, 3.0)])
    assert 1.2 < one.factor("experts", "megatron", "fp8") < 3.0
    many = fit_terms([*rows((1.0, 1.0, 1.0)) * 5, Row("megatron", "fp8", outcome(1.0, 0.0, 0.0), 0.0, 5.0)])
    assert many.factor("experts", "megatron", "fp8") == pytest.approx(1.0, abs=0.08)


def test_a_format_of_its_own_has_terms_for_products_alone():
    terms = fit_terms([*rows((1.3, 1.0, 1.5)) * 10, *rows((1.6, 1.0, 1.5), form="fp4") * 10])
    assert terms.factor("experts", "megatron", "fp4") == pytest.approx(1.6, rel=0.04)
    assert terms.factor("bubble", "megatron", "fp4") == terms.factor("bubble", "megatron", "fp8")
    # A format that nobody trained in has what all share.
    assert 1.3 < terms.factor("experts", "megatron", "bf16") < 1.6
    # So has a stack that nobody published.
    assert terms.factor("bubble", "maxtext", "fp8") == pytest.approx(1.5, abs=0.35)


def test_host_scans_and_ageing_cannot_be_negative():
    shrinking = [Row("m", "fp8", outcome(*s, passes=50, scans=0.1), age, 0.7 - 0.2 * age)
                 for s in SHARES for age in (0.0, 1.0)]  # fmt: skip
    terms = fit_terms(shrinking)
    assert all(terms.constant(name, "m") > 0 for name in ("host_s", "scan_s", "ageing"))
    assert terms.constant("ageing", "m") < 0.1


def test_the_host_works_beside_the_device_and_the_bubble_stretches_with_both():
    seconds = outcome(2.0, 1.0, 1.0, passes=100, scans=0.5)
    factors = Factors({"experts": 1.5, "bubble": 1.2}, host_s=0.03, scan_s=2.0)
    # (2 · 1.5 + 1) s of the device beside 3 s of the host, 1 s of scans, and a bubble of 1.2 / 3.
    assert factors.scale(seconds, None) == pytest.approx((5 + 1) * (1 + 0.4) / 4)
    turns = replace(seconds, serial=True)  # nothing is exchanged
    assert factors.scale(turns, None) == pytest.approx((4 + 3 + 1) * (1 + 0.4) / 4)
    turns = replace(turns, seconds={"experts": 2.0, "exchange": 4.0}, scans=0.0)
    assert factors.scale(turns, None) == pytest.approx((3 + 5) / 6)
    known = [Row("m", "fp8", outcome(*s, passes=passes), 0.0, np.hypot(s[0] + s[1], 0.01 * passes) / (1 - s[2]))
             for s in SHARES for passes in (0, 30, 100, 300)]  # fmt: skip
    assert fit_terms(known * 5).constant("host_s", "m") == pytest.approx(0.01, rel=0.02)


def test_slopes_are_those_of_the_residuals():
    found = [Row(stack, "fp8", outcome(*s, passes=100, scans=0.1), 0.5, 1.3) for s in SHARES for stack in "mn"]
    exchanged = [replace(row.outcome, seconds={**row.outcome.seconds, "exchange": 0.2}) for row in found]
    serial = [replace(outcome, serial=n % 3 == 0) for n, outcome in enumerate(exchanged)]
    found = [replace(row, outcome=outcome) for row, outcome in zip(found, serial, strict=True)]
    problem = hierarchy._Problem(found, Spreads())
    at = np.random.default_rng(1).normal(0, 0.3, len(problem.names))
    slopes, step = problem.jacobian(at), 1e-6
    for term in range(len(at)):
        ahead, behind = (problem.residuals(at + sign * step * (np.arange(len(at)) == term)) for sign in (1, -1))
        assert slopes[:, term] == pytest.approx((ahead - behind) / (2 * step), abs=1e-6)


def test_ageing_comes_back():
    found = [row for age in (0.0, 0.5, 1.0) for row in rows((1, 1, 1), age=age, level=np.exp(0.4 * age))]
    assert fit_terms(found * 5).constant("ageing", "megatron") == pytest.approx(0.4, rel=0.1)


def figure(number, shares, model="m", hardware="h", source="s", stack="megatron fp8"):
    wanted = stretched(shares, (1.4, 0.9, 1.1))
    return Figure(stack, model, hardware, source, outcome(*shares), 0.0, wanted, str(number))


def test_held_out_errors_come_from_fits_without_the_figure():
    found = [figure(n, SHARES[n % 6], model="ab"[n // 6 % 2]) for n in range(24)]
    stranger = figure(24, (0.5, 0.3, 0.2), model="c", source="other")
    odd = Figure("megatron fp8", "c", "h", "other", stranger.outcome, 0.0, 2 * stranger.wanted, "odd")
    errors = held_out([*found, odd], "model")
    assert np.abs(errors[:-1]).max() < 0.15
    assert errors[-1] == pytest.approx(-np.log(2), abs=0.1)


def test_a_calibration_is_written_and_read_back(tmp_path):
    found = [figure(n, SHARES[n % 6], model="ab"[n % 2]) for n in range(24)]
    calibration, errors = fit_calibration(found)
    path = tmp_path / "c.yaml"
    path.write_text(calibration_text(calibration, errors, source="made up", date="2026-01-01"))
    again = load_calibration(path)
    assert again.of("megatron fp8") == calibration.of("megatron fp8")
    assert again.of("megatron fp8").entries == 24
    assert set(errors["megatron fp8"]) == {
        "in sample",
        *(f"unseen {by}" for by in ("entry", "model", "hardware", "source")),
    }
    # Stacks and formats that no figure has.
    assert again.of("maxtext fp8").factors == again.of("any fp8").factors
    assert again.of("maxtext fp4").factors == again.of("any training").factors
    assert again.of("maxtext load").factors == {}


def test_no_calibration_changes_nothing():
    assert Calibration().of("x load").scale(outcome(1, 1, 1), 1.0) == 1.0


def test_a_stack_of_few_figures_has_the_interval_of_its_kind_of_run():
    found = [figure(n, SHARES[n % 6], model="ab"[n // 6 % 2]) for n in range(24)]
    few = [figure(30 + n, SHARES[n], model="ab"[n % 2], stack="maxtext bf16") for n in range(3)]
    calibration, errors = fit_calibration([*found, *few])
    assert calibration.of("maxtext bf16").entries == 3
    assert calibration.of("maxtext bf16").interval == calibration.of("any training").interval
    assert set(errors["all"]) == set(errors["maxtext bf16"])
