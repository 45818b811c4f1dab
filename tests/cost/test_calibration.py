"""From a profile's block to costs: nearest kernels, borrowing, defaults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost.calibration import candidates, entry_from_fit, estimate, fit_from_entry, machine_for, on_units
from moesim.cost.dtypes import DTYPES, dtype_distance, formats, table_dtype
from moesim.cost.family import default_fit
from moesim.cost.gemm import GEMM, gemm
from moesim.cost.table_kinds import FAMILIES, KINDS, kind_of
from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware, Host
from moesim.hardware.precision import PRECISIONS

DEVICE = Device("toy", "gpu", {"bf16": 1e15, "fp8": 2e15}, 80e9, 4e12, 100)


def _fit(software="stack 1.2.0", kernel="linear", dtype="bfloat16", points=100, **changes):
    key = {"software": software, "kernel": kernel, "dtype": dtype}
    known = replace(default_fit(GEMM), key=key, points=points, shapes=9, error=(0.05, 0.2), interval=(0.9, 1.2))
    return replace(known, **{"range": {"m": (1.0, 1024.0), "n": (64.0, 8192.0), "k": (64.0, 8192.0)}} | changes)


def _hardware(name, calibration):
    return Hardware(name, name, replace(DEVICE, name=name), Host(None, None, None), {}, calibration=calibration)


def _block(*fits):
    return {"source": "a test", "date": "2026-01-01", "gemm": [entry_from_fit(fit) for fit in fits]}


def _picked(wanted, *fits):
    return [(fit.key["software"], fit.key["kernel"], fit.key["dtype"]) for fit in candidates(fits, wanted)]


def test_a_fit_survives_the_profile():
    fitted = _fit(held_out=True)
    again = fit_from_entry("gemm", entry_from_fit(fitted))
    assert again == fitted


def test_the_same_dtype_comes_before_the_same_stack():
    wanted = {"software": "stack", "dtype": "fp8"}
    assert _picked(wanted, _fit(), _fit("other 9", "cutlass", "fp8")) == [("other 9", "cutlass", "fp8")]


def test_an_unseen_version_uses_the_nearest_one():
    fits = [_fit("stack 1.0.0rc3"), _fit("stack 1.2.0"), _fit("stack 1.3.5"), _fit("other 1.2.1")]
    assert _picked({"software": "stack 1.2.1"}, *fits) == [("stack 1.2.0", "linear", "bfloat16")]
    assert _picked({"software": "stack 2.0"}, *fits) == [("stack 1.3.5", "linear", "bfloat16")]


def test_a_stack_without_version_uses_the_newest():
    assert _picked({"software": "stack"}, _fit("stack 1.2.0"), _fit("stack 1.3.0"))[0][0] == "stack 1.3.0"


def test_words_of_a_stack_weigh_more_than_its_version():
    fits = [_fit("deepep normal (sglang 0.5.12)"), _fit("deepep low-latency (sglang 0.5.12)")]
    assert _picked({"software": "deepep low-latency (sglang 0.6)"}, *fits)[0][0].startswith("deepep low")


def test_an_unseen_kernel_uses_the_most_alike():
    fits = [_fit(kernel="DeepGemmFp8"), _fit(kernel="FlashInferFp8")]
    assert _picked({"kernel": "DeepGemmFp8V2"}, *fits)[0][1] == "DeepGemmFp8"


def test_an_unknown_stack_still_has_an_answer():
    assert len(_picked({"software": "nothing 7", "dtype": "fp8"}, _fit(), _fit(dtype="fp8"))) == 1


def test_where_the_kernel_is_open_rows_take_the_one_measured_at_their_size():
    small = _fit(kernel="small", range={"m": (1.0, 16.0)})
    large = replace(_fit(kernel="large", range={"m": (32.0, 4096.0)}), parameters={**small.parameters, "t0": 1e-3})
    machine = machine_for(_hardware("toy", _block(small, large)), "stack", None)
    cost = estimate(machine, GEMM, {"m": np.array([4.0, 64.0]), "n": 512.0, "k": 512.0, "dtype": "bfloat16"}, {})
    assert cost.seconds[0] < 1e-3 < cost.seconds[1]


def test_a_measured_profile_says_so():
    machine = machine_for(_hardware("toy", _block(_fit())), "stack", None)
    assert machine.origin == "measured"
    assert machine.fits["gemm"][0].key["kernel"] == "linear"


def test_a_sibling_lends_its_fits_with_wider_intervals():
    shelf = {"toy": _hardware("toy", _block(_fit()))}
    own = machine_for(shelf["toy"], None, shelf.get)
    lent = machine_for(_hardware("twin", {"like": "toy"}), None, shelf.get)
    assert lent.origin == "like toy"
    assert lent.fits["gemm"][0].parameters == own.fits["gemm"][0].parameters
    arguments = {"weights": PRECISIONS["bf16"], "activations": PRECISIONS["bf16"]}
    one, other = gemm(own, 64, 4096, 4096, **arguments), gemm(lent, 64, 4096, 4096, **arguments)
    assert one.seconds == other.seconds
    assert other.high / other.low > one.high / one.low


def test_a_profile_without_calibration_has_defaults_and_the_widest_interval():
    machine = machine_for(_hardware("toy", {}), "anything", None)
    cost = gemm(machine, 64, 4096, 4096, weights=PRECISIONS["bf16"], activations=PRECISIONS["bf16"])
    assert machine.origin == "defaults"
    assert cost.high / cost.seconds == pytest.approx(2.0)


def test_profiles_that_borrow_in_a_circle_are_named():
    shelf = {"a": _hardware("a", {"like": "b"}), "b": _hardware("b", {"like": "a"})}
    with pytest.raises(InvalidInput, match="like a leads back to itself"):
        machine_for(shelf["a"], None, shelf.get)


def test_graphs_drop_the_host_time_of_a_host_bound_kernel():
    slow = _fit(choices={**default_fit(GEMM).choices, "host_bound": True})
    slow = replace(slow, parameters={**slow.parameters, "t0": 8e-5, "t_h": 2e-4})
    hardware = _hardware("toy", _block(slow))
    arguments = {"weights": PRECISIONS["bf16"], "activations": PRECISIONS["bf16"]}
    eager = gemm(machine_for(hardware, None, None, graphs=False), 1, 64, 64, **arguments)
    graphed = gemm(machine_for(hardware, None, None), 1, 64, 64, **arguments)
    assert eager.seconds >= 2e-4
    assert graphed.seconds < 1e-5


def test_dtype_names_round_trip():
    assert all(table_dtype(*formats(dtype)) in DTYPES for dtype in DTYPES)
    assert dtype_distance("fp8", "fp8") == 0 < dtype_distance("fp8", "fp8_block") < dtype_distance("fp8", "bfloat16")
    assert dtype_distance("int4_wo", "bfloat16") < dtype_distance("int4_wo", "nvfp4")
    with pytest.raises(InvalidInput, match="dtype 'fp3' is unknown"):
        formats("fp3")


def test_every_kind_of_table_is_told_from_its_columns():
    for kind, phases in KINDS.items():
        assert kind_of((*next(iter(phases.values())).columns, "row_id", "extra")) == kind
    with pytest.raises(InvalidInput, match="closest is gemm, which also needs k"):
        kind_of(("hardware", "software", "kernel", "dtype", "m", "n"))


def test_starts_lie_inside_their_bounds():
    for family in FAMILIES.values():
        for name, parameter in family.parameters.items():
            assert 0 < parameter.low <= parameter.start <= parameter.high, (family.name, name)


@pytest.mark.parametrize(
    ("peak", "cores", "share"),
    [
        (1e15, 100, 0.6),  # the same units
        (2.5e14, 100, 0.6 / (0.6 + 0.4 / 4)),  # a quarter of the peak: what takes time beyond it stays
        (2e15, 100, 0.6 / (0.6 + 0.4 * 2)),
        (2e15, 200, 0.6),  # twice the cores
    ],
)
def test_a_borrowed_share_of_peak_keeps_the_time_beyond_the_matrix_units(peak, cores, share):
    fitted = replace(_fit(), parameters={**_fit().parameters, "e_c": 0.6})
    ours = replace(DEVICE, peak={"bf16": peak}, cores=cores)
    moved = on_units(fitted, DEVICE, ours)
    assert moved.parameters["e_c"] == pytest.approx(share)
    beyond = (1 / (share * peak) - 1 / peak) * cores
    assert beyond == pytest.approx((1 / 0.6e15 - 1 / 1e15) * 100)
    assert on_units(fitted, ours, DEVICE).parameters["e_c"] <= 1
    full = replace(fitted, parameters={**fitted.parameters, "e_c": 1.4})
    assert on_units(full, DEVICE, ours) is full


def test_formats_that_a_device_lacks_are_lent_as_they_are():
    narrow = replace(_fit(dtype="nvfp4"), parameters={**_fit().parameters, "e_c": 0.6})
    assert on_units(narrow, DEVICE, DEVICE) is narrow
