"""Published figures as scenario files: they can be read, run and judged, and hold no words of their sources."""

from dataclasses import replace
from pathlib import Path

import pytest

from moesim.errors import InvalidInput
from moesim.spec.reading.loading import read
from moesim.spec.serving.scenario import ServingScenario
from moesim.spec.step.scenario import Scenario
from moesim.spec.training.scenario import TrainingScenario
from moesim.study.entries.calibration.factors import SHIPPED, load_calibration
from moesim.study.entries.prediction.files import case_of_file, scenario_text, validate_folder
from moesim.study.entries.prediction.predict import case_of
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.runs.runner import Runner

FOLDER = Path(__file__).parents[4] / "scenarios" / "published"
ENTRY = Entry(
    "one", "a README", "inference", "Qwen3-30B-A3B", "B200", 1, "TP1", "FP4", "concurrency 4", "512", "64",
    "TensorRT-LLM", "output throughput per GPU", "output tok/s/GPU",
)  # fmt: skip


def test_a_written_scenario_gives_the_same_case(tmp_path):
    case = replace(case_of(ENTRY, Runner()), age=0.5, devices=4)
    path = tmp_path / "one.yaml"
    path.write_text(scenario_text(case, ENTRY, 900.0, "Shows: a figure."))
    found, expected = case_of_file(read(path))
    assert found.document == case.document
    assert (found.stack, found.age, found.devices, found.assumed) == (case.stack, 0.5, 4, case.assumed)
    assert (expected.value, expected.source) == (900.0, "a README")


def test_a_folder_is_judged_worst_first(tmp_path):
    case = case_of(ENTRY, Runner())
    for name, value in (("good", 700.0), ("bad", 7.0)):
        entry = replace(ENTRY, id=name)
        (tmp_path / f"{name}.yaml").write_text(scenario_text(case, entry, value, "A figure."))
    found = validate_folder(tmp_path, Runner())
    assert found["scenario"].tolist() == ["bad", "good"]
    assert found["predicted"].nunique() == 1
    assert (found["low"] < found["predicted"]).all()
    assert found["error"].abs().is_monotonic_decreasing


def test_a_scenario_without_a_figure_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("model: qwen3-30b-a3b\n")
    with pytest.raises(InvalidInput, match="expected: missing"):
        validate_folder(tmp_path, Runner())
    with pytest.raises(InvalidInput, match="holds no scenario files"):
        validate_folder(tmp_path / "nothing", Runner())


def test_the_shipped_scenarios_are_valid_and_many():
    paths = sorted(FOLDER.glob("*.yaml"))
    assert len(paths) >= 40
    for path in paths:
        document = read(path)
        kind = document.data.get("workload", {}).get("kind")
        document.check(
            ServingScenario if "load" in document.data else TrainingScenario if kind == "training" else Scenario
        )
        case, expected = case_of_file(document)
        assert expected.source
        assert case.stack in load_calibration().stacks or f"any {case.stack.split(' ')[1]}" in load_calibration().stacks


def test_the_shipped_calibration_says_how_good_it_is():
    calibration = load_calibration(SHIPPED)
    assert {"megatron fp8", "trtllm load"} <= set(calibration.stacks)
    for factors in calibration.stacks.values():
        assert factors.interval[0] < 1 < factors.interval[1]
        assert all(0.05 < factor < 20 for factor in factors.factors.values())


@pytest.mark.parametrize("name", ["trtpo-087", "mbridge-005"])
def test_quick_shipped_scenarios_are_predicted_well(name, tmp_path):
    """Published within half to twice the prediction; reports/published.md has all of them."""
    (path,) = FOLDER.glob(f"*-{name}.yaml")
    (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"))
    assert abs(validate_folder(tmp_path, Runner()).loc[0, "error"]) < 0.5
