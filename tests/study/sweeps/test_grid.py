"""Grids over scenario fields: what is varied, and what is wrong with it before anything runs."""

import pytest

from moesim.errors import InvalidInput
from moesim.study.sweeps.grid import as_text, parse_axis, read_grid

SCENARIO = "mixtral-8x7b-h100"


def complaint(*arguments):
    with pytest.raises(InvalidInput) as caught:
        read_grid(*arguments)
    return str(caught.value)


def test_axes_multiply_and_the_last_is_fastest():
    grid = read_grid(SCENARIO, [{"workload.context": [1, 2]}, {"seed": [3, 4, 5]}])
    assert [tuple(point.values.values()) for point in grid.points] == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)]
    assert [point.document.data["seed"] for point in grid.points] == [3, 4, 5, 3, 4, 5]
    assert len({point.key for point in grid.points}) == 6


def test_fields_of_one_axis_change_together():
    grid = read_grid(SCENARIO, [{"cluster.devices": [4, 8], "parallelism.tp": [4, 8], "parallelism.ep": [4, 8]}])
    assert [point.document.data["parallelism"]["tp"] for point in grid.points] == [4, 8]
    assert grid.leading == ("cluster.devices",)
    assert parse_axis("parallelism.tp+parallelism.ep=4,8") == {"parallelism.tp": [4, 8], "parallelism.ep": [4, 8]}


def test_values_are_yaml():
    axis = parse_axis("placement={kind: contiguous, slots_per_rank: 1},{kind: replicate_hot, slots_per_rank: 2}")
    assert axis["placement"][1] == {"kind": "replicate_hot", "slots_per_rank": 2}
    assert parse_axis("cluster.options.shape=[4, 4],[2, 8]") == {"cluster.options.shape": [[4, 4], [2, 8]]}
    for value in ("no", "4 x 4", "8", 8, [4, 4], {"kind": "none"}, None, True):
        assert parse_axis(f"f={as_text(value)}") == {"f": [value]}


def test_a_scenario_that_comes_twice_runs_once():
    assert len(read_grid(SCENARIO, [{"seed": [1, 1, 2]}]).points) == 2


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ([{"workload.contxt": [1, 2]}], "--over: workload.contxt: unknown key; did you mean 'context'?"),
        ([{"wrkload.context": [1]}], "--over: wrkload: unknown key; did you mean 'workload'?"),
        ([{"seed": [1, "x"]}], "--over: seed: write a whole number, not 'x'"),
        ([{"placement.kind": ["contiguous", "contigous"]}], "did you mean 'contiguous'"),
        ([{"seed": [1]}, {"seed": [2]}], "seed: an earlier axis varies it"),
        (
            [{"workload.context": [1]}, {"workload": [{"kind": "decode"}]}],
            "an earlier axis varies it, or a field inside",
        ),
        ([{"seed": [1, 2], "workload.context": [1]}], "as many values: seed has 2, workload.context has 1"),
        ([{"routing.labels.7": ["prose"]}], "no such element of a list"),
        ([], "--over"),
    ],
)
def test_a_wrong_grid_is_told_before_anything_runs(axes, said):
    assert said in complaint(SCENARIO, axes)


def test_all_that_is_wrong_comes_at_once():
    told = complaint(SCENARIO, [{"workload.contxt": [1]}, {"seed": ["x"]}])
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize("text", ["seed", "seed=", "=1,2", "seed+=1"])
def test_a_field_wants_values(text):
    with pytest.raises(InvalidInput, match="FIELD=VALUE"):
        parse_axis(text)


def test_a_sweep_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "scenario: mixtral-8x7b-h100\nset: {seed: 3}\nmetric: step_time_s\n"
        "over:\n  - {workload.context: [1024, 2048]}\n  - {software: [vllm, trtllm]}\n"
    )
    grid = read_grid(str(path), [{"workload.sequences_per_rank": [8]}])
    assert len(grid.points) == 4
    assert {point.document.data["seed"] for point in grid.points} == {3}
    assert (grid.metric, grid.fields[-1]) == ("step_time_s", "workload.sequences_per_rank")


def test_mistakes_in_a_sweep_file_have_their_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("scenario: mixtral-8x7b-h100\nover:\n  - workload.contxt: [1024]\n")
    assert complaint(str(path)) == f"{path}:3:5: workload.contxt: unknown key; did you mean 'context'?"
    path.write_text("scenario: mixtral-8x7b\nover: []\n")
    assert "over" in complaint(str(path))
    path.write_text("scenario: mixtral-h100\nover: [{seed: [1]}]\n")
    assert complaint(str(path)).startswith(f"{path}:1:11: scenario: no scenario is named")


def test_a_change_of_a_named_file_is_another_run(tmp_path):
    from moesim.spec.reading import library

    profile = tmp_path / "mine.yaml"
    profile.write_text(library.find("hardware", "h100").read_text())
    axes = [{"cluster.hardware": [str(profile)]}]
    before, again = (read_grid(SCENARIO, axes).points[0].key for _ in range(2))
    profile.write_text(profile.read_text().replace("3.35 TB/s", "3.00 TB/s"))
    assert before == again != read_grid(SCENARIO, axes).points[0].key
