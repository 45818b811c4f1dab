"""The closed loop without a clock: a made-up machine whose kernels take exactly what the equations say."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest

if not importlib.util.find_spec("torch"):
    pytest.skip("measuring needs the extra lab", allow_module_level=True)

from moesim.cost import cpu
from moesim.cost.calibration import machine_for
from moesim.cost.gemm import gemm
from moesim.errors import InvalidInput
from moesim.hardware.device import Device
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.lab import stopwatch
from moesim.lab.closed_loop import Pass, balanced
from moesim.lab.microbench import Collective, Memory, Product, RoutedExperts
from moesim.lab.place import Place
from moesim.network.routes import build_network
from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.closed_loop import loop as local

PLACE = Place("cpu", 2, cache_bytes=32e6)
TRUE = Device("true", "cpu", {"fp32": 100e9}, 16e9, 20e9, 1, 32e6, 2e9)
PARAMETERS = {
    "gemm": {"t0": 1e-5, "e_c": 0.9, "e_p": 0.4, "e_v": 0.6},
    "experts": {"t0": 1e-4, "t_e": 4e-6, "t_l": 2e-6, "e_c": 0.8, "e_m": 0.5, "e_a": 0.3},
    "collective": {"t_a": 1e-4, "t_r": 2.5e-4, "e_a": 0.9, "e_r": 0.7, "c": 1.0, "v_c": 4e6},
}
EQUATIONS = {"gemm": cpu.product, "experts": cpu.experts, "collective": cpu.collective}
FAMILIES = {Product: "gemm", RoutedExperts: "experts", Collective: "collective"}


def silent(text, done, total):
    pass


def by_equation(place, tasks, *, rounds, partial, progress):
    """Seconds that the made-up machine takes; 1 ms for a pass."""
    partial.touch()
    return {task.key: _seconds(place, task) for task in tasks}


def _seconds(place, task):
    if isinstance(task, Memory):
        return place.pool_bytes / TRUE.hbm_bytes_per_s
    if isinstance(task, Pass):
        return 1e-3
    return true_seconds(FAMILIES[type(task)], task.row(place))


def true_seconds(family, row):
    rows = {name: np.array([value]) for name, value in row.items()}
    return float(EQUATIONS[family](TRUE, rows, PARAMETERS[family], {})[0])


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(stopwatch, "time_tasks", by_equation)


@pytest.fixture
def hardware(made_up, tmp_path):
    return local.measure_profile(tmp_path / "mine.yaml", place=PLACE, progress=silent)


def test_the_profile_is_of_this_machine(hardware, tmp_path):
    device = hardware.device
    assert (hardware.name, device.kind, device.cores, device.cache_bytes) == ("mine", "cpu", 1, 32e6)
    assert device.hbm_bytes_per_s == pytest.approx(20e9, rel=1e-3)
    assert device.peak["fp32"] < 100e9
    assert device.scale_up_bytes_per_s < 2e9
    text = (tmp_path / "mine.yaml").read_text()
    assert text.count("# measured here, ") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}


def test_fits_find_the_machine_again(hardware):
    """Rates are relative to the best that was seen, which is less than the true one."""
    for family, fixed in (("gemm", ("t0",)), ("experts", ("t_e",)), ("collective", ("t_a", "t_r"))):
        (entry,) = hardware.calibration[family]
        assert entry["error"][0] < 0.02
        for name in fixed:
            assert entry["parameters"][name] == pytest.approx(PARAMETERS[family][name], rel=0.15)


def test_the_rest_of_moesim_uses_the_profile(hardware):
    machine = machine_for(hardware, None, load_profile, graphs=False)
    fp32 = PRECISIONS["fp32"]
    seconds = gemm(machine, 64, 700, 300, weights=fp32, activations=fp32).seconds
    true = 1e-5 + 2 * 64 * 700 * 300 / (100e9 * 0.9) + 700 * 300 * 4 / (20e9 * 0.4)
    assert seconds == pytest.approx(true, rel=0.03)
    uncalibrated = machine_for(load_profile("h100"), None, load_profile)
    assert uncalibrated.device.kind == "gpu"


def test_a_pass_is_its_operations_one_after_another(hardware):
    """Balanced on two ranks: nobody waits, so a layer is three exchanges and one rank's work."""
    machine = machine_for(hardware, "torch", load_profile, graphs=False)
    run = Pass("toy", "balanced", 2, 64, 160, 160, 32, balanced(32, 4, 128))
    network = build_network(build_cluster(hardware, 2))
    predicted, low, high = local.predict_pass(machine, network, run)

    rows = {"software": "", "dtype": "float32", "op": "alltoall", "ranks": 2}
    exchange = {n: {**rows, "message_elements": n / 4} for n in (2 * 16 * 8, 64 * 4 * 160 * 4)}
    work = {
        "dtype": "float32", "hidden_size": 160, "width": 160, "gated": 1, "tokens": 64, "top_k": 4, "local_experts": 16,
        "pairs": 256, "touched": 16,
    }  # fmt: skip

    counts, tokens = (true_seconds("collective", row) for row in exchange.values())
    assert predicted == pytest.approx(2 * (counts + 2 * tokens + true_seconds("experts", work)), rel=0.05)
    assert low < predicted < high


def test_a_hot_rank_takes_longer(hardware):
    machine = machine_for(hardware, "torch", load_profile, graphs=False)
    network = build_network(build_cluster(hardware, 2))
    even = balanced(8, 2, 256)
    first = np.broadcast_to(np.array([0, 1]), even.shape)
    times = [
        local.predict_pass(machine, network, Pass("toy", "", 2, 128, 192, 320, 8, ids))[0] for ids in (even, first)
    ]
    assert times[0] < times[1]


def test_validate_local_compares_every_pass(made_up, tmp_path):
    found = local.validate_local(tmp_path, place=PLACE, copies=(64,), progress=silent)
    assert list(found.table) == [
        "model", "routing", "processes", "tokens", "experts", "top_k", "hidden", "ffn", "predicted_s", "low_s",
        "high_s", "measured_s", "error",
    ]  # fmt: skip
    assert len(found.table) == len(local.captured_traces()) * 3 * 2
    assert (found.table["measured_s"] == 1e-3).all()
    assert np.allclose(found.table["error"], found.table["predicted_s"] / 1e-3 - 1)
    assert (found.in_order, found.ordered) == (0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"passes.csv", "this_machine.yaml"}
    assert len(pd.read_csv(tmp_path / "passes.csv")) == len(found.table)

    again = local.validate_local(
        tmp_path / "again", profile=tmp_path / "this_machine.yaml", place=PLACE, copies=(64,), progress=silent
    )
    pd.testing.assert_frame_equal(again.table, found.table)


def test_another_kind_of_machine_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="h100: is of a gpu, but passes run on cpu here"):
        local.validate_local(tmp_path, profile="h100", place=PLACE, progress=silent)
    with pytest.raises(InvalidInput, match=r"ends in \.yaml"):
        local.measure_profile(tmp_path / "profile.json", place=PLACE, progress=silent)


def test_one_process_alone_has_no_links(made_up, tmp_path):
    place = Place("cpu", 1)
    found = local.validate_local(tmp_path, place=place, copies=(64,), progress=silent)
    assert set(found.table["processes"]) == {1}
    assert found.hardware.topology == {"kind": "single"}
    assert found.hardware.device.scale_up_bytes_per_s is None


def test_a_place_that_cannot_be_written_is_told_before_timing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be written"):
        local.measure_profile(tmp_path / "file" / "mine.yaml", place=PLACE, progress=silent)


def test_order_counts_pairs_that_differ():
    """Of three routings two are a draw, and one of the two other pairs is predicted the wrong way round."""
    table = pd.DataFrame({
        "model": "toy", "processes": 2, "tokens": 8, "routing": ["a", "b", "c"],
        "measured_s": [1.0, 1.05, 2.0], "predicted_s": [1.0, 3.0, 2.0],
    })  # fmt: skip
    assert local.right_order(table) == (1, 2)


def test_the_command_line_prints_both(made_up, tmp_path, capsys, monkeypatch):
    from moesim.cli.local import measure_machine, validate_local

    monkeypatch.setattr("moesim.lab.place.this_machine", lambda device=None: PLACE)
    measure_machine(tmp_path / "mine.yaml")
    assert "best rates" in capsys.readouterr().out
    validate_local(profile=tmp_path / "mine.yaml", folder=tmp_path / "loop")
    out = capsys.readouterr().out
    assert "median error" in out
    assert "order of the routings" in out
    validate_local(profile=tmp_path / "mine.yaml", folder=tmp_path / "loop", json=True)
    assert len(json.loads(capsys.readouterr().out)["passes"]) == 3 * 3 * 2 * len(local.captured_traces())
