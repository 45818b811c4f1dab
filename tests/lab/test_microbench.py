"""Timing a machine: what is timed, that a stopped run goes on, and the tables that come out. No time is asserted."""

import json

import numpy as np
import pytest

from moesim.cost.cpu import COLLECTIVE, EXPERTS, PRODUCT
from moesim.errors import InvalidInput
from moesim.lab import stopwatch
from moesim.lab.closed_loop import _WIDTHS, Pass, balanced
from moesim.lab.microbench import CPU_SWEEP, CUDA_SWEEP, Sweep, sweep_tasks, tables
from moesim.lab.place import Place, cpu_cache_bytes, facts, this_machine
from moesim.lab.stopwatch import time_tasks

PLACE = Place("cpu", 2)
TINY = Sweep(rows=(1, 2), matrices=((8, 4),), experts=((8, 4, 4, 2),), copies=(6,), elements=(16,))


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def stopped_then_finished(tmp_path_factory):
    """(tasks, lines of the partial file when stopped, lines when finished, seconds) of a run that was stopped once."""
    partial = tmp_path_factory.mktemp("timings") / "partial"
    tasks = [*sweep_tasks(PLACE, TINY), Pass("toy", "balanced", 2, 3, 8, 4, 4, balanced(4, 2, 6))]
    tasks.append(Pass("toy", "balanced", 1, 3, 8, 4, 4, balanced(4, 2, 3)))

    def stops(place, tasks, todo):
        for turn, index in todo[:5]:
            yield turn, tasks[index].key, 1e-3
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "_run", stops)
        with pytest.raises(Stopped):
            time_tasks(PLACE, tasks, rounds=1, partial=partial)
    before = partial.read_text().splitlines()
    seen = []
    seconds = time_tasks(PLACE, tasks, rounds=1, partial=partial, progress=lambda *about: seen.append(about))
    assert seen[0] == ("timing", 5, len(tasks))
    assert seen[-1] == ("timing", len(tasks), len(tasks))
    return tasks, before, partial.read_text().splitlines(), seconds


def test_a_stopped_run_goes_on_where_it_was(stopped_then_finished):
    tasks, before, after, seconds = stopped_then_finished
    assert len(before) == 1 + 5
    assert after[: len(before)] == before
    assert len(after) == 1 + len(tasks)
    assert seconds.keys() == {task.key for task in tasks}
    assert all(np.isfinite(time_s) and time_s > 0 for time_s in seconds.values())


def test_tables_have_what_the_equations_read(stopped_then_finished):
    tasks, _, _, seconds = stopped_then_finished
    found = tables(PLACE, tasks, seconds)
    assert (len(found.gemm), len(found.experts), len(found.collective), len(found.memory)) == (2, 2, 2, 2)
    assert found.gemm[["m", "n", "k"]].values.tolist() == [[1, 8, 4], [2, 8, 4]]
    assert set(found.gemm["dtype"]) == {"float32"}
    assert found.experts["pairs"].tolist() == [6.0, 6.0]
    assert (found.experts["touched"] <= 4).all()
    assert found.collective[["op", "ranks", "message_elements"]].values.tolist() == [
        ["alltoall", 2, 32],
        ["all_reduce", 2, 32],
    ]
    assert found.gemm["latency_s"].tolist() == [seconds["gemm 1 8 4"], seconds["gemm 2 8 4"]]


def test_a_line_cut_off_in_writing_is_timed_again(tmp_path, stopped_then_finished):
    """Nothing is left to time but the task of the last line, which a file without an end of line does not hold."""
    tasks, _, lines, seconds = stopped_then_finished
    partial = tmp_path / "partial"
    partial.write_text("\n".join(lines) + "\n" + '{"round": 1, "key": "gem')
    again = time_tasks(PLACE, tasks, rounds=1, partial=partial)
    assert again == seconds
    assert partial.read_text().splitlines() == lines


def test_the_shortest_round_counts(tmp_path, stopped_then_finished):
    tasks, _, lines, seconds = stopped_then_finished
    second = [json.loads(line) for line in lines[1:]]
    longer = [json.dumps(row | {"round": 1, "seconds": 2 * row["seconds"]}) for row in second]
    (tmp_path / "partial").write_text("\n".join([*lines, *longer]) + "\n")
    assert time_tasks(PLACE, tasks, rounds=2, partial=tmp_path / "partial") == seconds


def test_timings_of_another_machine_are_refused(tmp_path, stopped_then_finished):
    tasks, _, lines, _ = stopped_then_finished
    (tmp_path / "partial").write_text("\n".join(lines) + "\n")
    with pytest.raises(InvalidInput, match="partial: holds timings of other tasks or of another machine; delete it"):
        time_tasks(Place("cpu", 2, cache_bytes=1.0), tasks, rounds=1, partial=tmp_path / "partial")


@pytest.mark.parametrize(("place", "sweep"), [(Place("cpu", 2), CPU_SWEEP), (Place("cuda", 8), CUDA_SWEEP)])
def test_sweeps_can_be_fitted(place, sweep):
    keys = [task.key for task in sweep_tasks(place, sweep)]
    assert len(set(keys)) == len(keys)
    assert len(sweep.rows) * len(sweep.matrices) >= 2 * len(PRODUCT.parameters)
    assert 2 * len(sweep.experts) * len(sweep.copies) >= 2 * len(EXPERTS.parameters)
    assert 2 * len(sweep.elements) >= 2 * len(COLLECTIVE.parameters)


@pytest.mark.parametrize(("place", "sweep"), [(Place("cpu", 2), CPU_SWEEP), (Place("cuda", 8), CUDA_SWEEP)])
def test_weights_of_a_call_fit_the_cold_memory(place, sweep):
    """Else they would not be cold; the largest experts of the closed loop have 256 of (128, 64) or (1024, 512)."""
    elements = place.pool_bytes / place.dtype.itemsize
    assert all(n * k <= elements / 2 for n, k in sweep.matrices)
    assert all(3 * hidden * ffn * experts <= elements / 1.5 for hidden, ffn, experts, _ in sweep.experts)
    hidden, ffn = _WIDTHS[place.device][0]
    assert 3 * hidden * ffn * 256 <= elements / 1.5


def test_one_process_has_no_collectives():
    assert not [task for task in sweep_tasks(Place("cpu", 1), TINY) if task.key.startswith(("alltoall", "all_reduce"))]


def test_the_machine_says_what_it_is(tmp_path):
    for index, size in enumerate(("48K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert cpu_cache_bytes(tmp_path) == 32 * 2**20
    assert cpu_cache_bytes(tmp_path / "nowhere") is None
    place = this_machine("cpu")
    assert (place.processes, place.backend) == (2, "gloo")
    assert place.pool_bytes >= 3 * (place.cache_bytes or 0)
    assert facts(place).memory_bytes > 1e8
    with pytest.raises(InvalidInput, match="device 'tpu' is unknown; write cpu or cuda"):
        this_machine("tpu")
