"""Bubbles of pipeline schedules come out of the engine: equal toy stages, a free network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.simulate import simulate
from moesim.errors import InvalidInput
from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter
from moesim.workload.training.pipeline import pipeline_programs
from moesim.workload.training.schedules import BACKWARD, FORWARD, INPUT, SCHEDULES, WEIGHT, Task

F, B, W = 10, 22, 9  # microseconds of a rank's whole part: forward, whole backward, of which weight gradients
PAIR = 27  # a forward beside a backward, in DualPipe


def hop(ranks):
    """A message that takes no time."""
    zero = np.zeros(2)
    return Transfer("hop", np.array(ranks), np.array([0]), zero[:1], 0.0, zero, zero, zero.astype(int), zero, zero)


def timeline(schedule, forward=F, backward=B, weight=W, pair=PAIR):
    cost = {FORWARD: forward, BACKWARD: backward, INPUT: backward - weight, WEIGHT: weight}
    held = schedule.chunks if len(schedule.paths) == 1 else 1  # DualPipe's two chunks are two whole stages

    def write(emit, rank, tasks, after):
        micro = pair if len(tasks) == 2 else cost[tasks[0].phase] / held
        done = emit.compute("work", -1, np.array([micro * 1e-6]), tuple(i for part in after for i in part))
        return ((done,),) * len(tasks)

    messages = {
        (path, position, direction): hop(sorted((places[position][0], places[neighbour][0])))
        for path, places in enumerate(schedule.paths)
        for position in range(len(places))
        for direction, neighbour in ((FORWARD, position + 1), (BACKWARD, position - 1))
        if 0 <= neighbour < len(places) and places[position][0] != places[neighbour][0]
    }
    emitters = [Emitter(np.array([rank])) for rank in range(len(schedule.orders))]
    programs = pipeline_programs(schedule, emitters, write, messages)
    return simulate(programs, lambda active, capacity: np.ones(len(active)), np.ones(1))


def bubble_us(kind, stages, microbatches, **options):
    """Time of the step beyond the work of its busiest rank, in µs."""
    found = timeline(SCHEDULES[kind](stages, microbatches, **options))
    return round(found.makespan_s * 1e6 - microbatches * (F + B), 6)


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 3), (2, 2), (4, 4), (4, 9), (8, 16)])
def test_gpipe_and_1f1b_have_the_same_bubble(stages, microbatches):
    expected = (stages - 1) * (F + B)
    assert bubble_us("gpipe", stages, microbatches) == expected
    assert bubble_us("1f1b", stages, microbatches) == expected
    share = expected / (expected + microbatches * (F + B))
    assert share == pytest.approx((stages - 1) / (microbatches + stages - 1))


@pytest.mark.parametrize(
    ("stages", "microbatches", "chunks"), [(2, 4, 2), (4, 4, 2), (4, 8, 2), (4, 12, 3), (8, 16, 4)]
)
def test_interleaving_divides_the_bubble_by_the_chunks(stages, microbatches, chunks):
    bubble = bubble_us("interleaved", stages, microbatches, virtual_stages=chunks)
    assert bubble == pytest.approx((stages - 1) * (F + B) / chunks, abs=1e-4)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (4, 12), (8, 24)])
def test_zero_bubble_fills_bubbles_with_weight_gradients(stages, microbatches):
    assert bubble_us("zero_bubble", stages, microbatches) == (stages - 1) * (F + B - 2 * W)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (4, 20), (8, 20), (16, 40)])
@pytest.mark.parametrize("pair", [20, 25, 30])
def test_dualpipe_has_the_bubble_of_its_report(stages, microbatches, pair):
    """The report's formula supposes forward, input-gradient and weight-gradient work of one length."""
    idle = dualpipe_idle_us(stages, microbatches, forward=10, backward=20, weight=10, pair=pair)
    assert idle.max() == pytest.approx((stages / 2 - 1) * (pair + 20 - 3 * 10), abs=1e-3)


@pytest.mark.parametrize(("stages", "microbatches"), [(4, 8), (8, 20)])
@pytest.mark.parametrize("pair", [22, 27, 32])
def test_dualpipe_with_uneven_phases(stages, microbatches, pair):
    idle = dualpipe_idle_us(stages, microbatches, forward=F, backward=B, weight=W, pair=pair)
    assert idle.max() == pytest.approx((stages / 2 - 1) * (pair + F - 2 * W), abs=1e-3)


def dualpipe_idle_us(stages, microbatches, **micros):
    """[rank] time without work."""
    found = timeline(SCHEDULES["dualpipe"](stages, microbatches), **micros)
    work = [sum(float(op.seconds[0]) for op in t.program.ops if op.transfer is None) for t in found.tracks]
    return 1e6 * (found.makespan_s - np.array(work))


def test_1f1b_toy_timeline():
    found = timeline(SCHEDULES["1f1b"](2, 2))
    begins = [track.start[[op.kind == "work" for op in track.program.ops], 0] // 10**6 for track in found.tracks]
    assert begins[0].tolist() == [0, 10, 42, 74]  # F0 F1 B0 B1
    assert begins[1].tolist() == [10, 20, 42, 52]  # F0 B0 F1 B1, forward 1 waiting for nothing but its rank


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(SCHEDULES)), stages=st.sampled_from([2, 4, 6]), rounds=st.integers(2, 5))
def test_every_microbatch_passes_every_stage_once_forward_and_once_back(kind, stages, rounds):
    microbatches = stages * rounds
    schedule = SCHEDULES[kind](stages, microbatches)
    for rank, order in enumerate(schedule.orders):
        tasks = [task for step in order for task in step]
        mine = {(m, c) for m in range(microbatches) for r, c in schedule.paths[schedule.path[m]] if r == rank}
        for phase, other in ((FORWARD, FORWARD), (BACKWARD, INPUT)):
            passed = [(t.microbatch, t.chunk) for t in tasks if t.phase in (phase, other)]
            assert sorted(passed) == sorted(mine)
        halves = [[(t.microbatch, t.chunk) for t in tasks if t.phase == phase] for phase in (INPUT, WEIGHT)]
        assert sorted(halves[0]) == sorted(halves[1])
        assert all(tasks.index(Task(FORWARD, m, c)) >= 0 for m, c in mine)
    assert timeline(schedule).makespan_s > 0  # nobody waits for ever


def test_memory_in_flight():
    assert [SCHEDULES["gpipe"](4, 8).in_flight(rank) for rank in range(4)] == [8, 8, 8, 8]
    assert [SCHEDULES["1f1b"](4, 8).in_flight(rank) for rank in range(4)] == [4, 3, 2, 1]
    assert max(SCHEDULES["zero_bubble"](4, 8).in_flight(rank) for rank in range(4)) == 4
    assert {SCHEDULES["dualpipe"](8, 20).in_flight(rank) for rank in range(8)} == {9}  # PP + 1, as in the report


@pytest.mark.parametrize(
    ("kind", "stages", "microbatches", "field"),
    [
        ("interleaved", 4, 6, "workload.global_batch"),
        ("dualpipe", 4, 6, "workload.global_batch"),
        ("dualpipe", 4, 9, "workload.global_batch"),
        ("dualpipe", 3, 8, "parallelism.pp"),
    ],
)
def test_too_few_microbatches_name_the_field(kind, stages, microbatches, field):
    with pytest.raises(InvalidInput) as caught:
        SCHEDULES[kind](stages, microbatches)
    assert caught.value.problems[0].field == field
