"""Toy programs whose timelines are known exactly, and properties that hold for any program."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.program import Op, Program
from moesim.engine.simulate import simulate, stretch
from moesim.network.transfer import Transfer

US = 1_000_000  # ticks in a microsecond


def transfer(ranks, wire_s, *, arrived=1.0, latency_s=0.0, group=None, links=(0,), load=None, name="all_to_all"):
    ranks = np.asarray(ranks)
    ones = np.ones(ranks.size)
    return Transfer(
        name=name,
        ranks=ranks,
        links=np.asarray(links),
        load=np.full(len(links), wire_s) if load is None else np.asarray(load, dtype=float),
        wire_s=wire_s,
        arrived=ones * arrived,
        latency_s=ones * latency_s,
        group=np.zeros(ranks.size, dtype=int) if group is None else np.asarray(group),
        sent=ones,
        received=ones,
    )


def local(name, seconds, *, after=(), stream="compute", kind="experts"):
    return Op(name, kind, 0, stream, seconds=np.asarray(seconds, dtype=float), after=after)


def collective(name, t, *, after=(), compute_share=0.0):
    return Op(name, name, 0, "communication", transfer=t, after=after, compute_share=compute_share)


def max_min(active, capacity):
    """One shared link of unit capacity whose loads are in seconds: equal shares."""
    return np.full(len(active), 1.0 / len(active))


def run(*programs, rates=max_min):
    return simulate([Program(np.asarray(ranks), tuple(ops)) for ranks, ops in programs], rates, np.ones(1))


def test_local_work_of_a_stream_runs_in_order_and_streams_overlap():
    ops = [local("a", [1e-6, 2e-6]), local("b", [3e-6, 1e-6]), local("copy", [5e-6, 5e-6], stream="copy")]
    track = run(([0, 1], ops)).tracks[0]
    assert (track.start // US).tolist() == [[0, 0], [1, 2], [0, 0]]
    assert (track.end // US).tolist() == [[1, 2], [4, 3], [5, 5]]


def test_a_collective_starts_with_its_last_member_and_ends_for_each_at_its_own_last_byte():
    t = transfer([0, 1], wire_s=4e-6, arrived=np.array([0.5, 1.0]), latency_s=1e-6)
    ops = [
        local("attention", [1e-6, 3e-6]),
        collective("dispatch", t, after=(0,)),
        local("experts", [1e-6] * 2, after=(1,)),
    ]
    timeline = run(([0, 1], ops))
    track = timeline.tracks[0]
    assert (track.start[1] // US).tolist() == [1, 3]
    assert (track.end[1] // US).tolist() == [3 + 2 + 1, 3 + 4 + 1]
    assert (track.end[2] // US).tolist() == [7, 9]
    assert timeline.makespan_s == pytest.approx(9e-6)
    assert timeline.waiting_s() == {
        "dispatch": pytest.approx(1e-6)
    }  # rank 0 waits 2 µs for rank 1, which waits for nobody
    # rank 0 computes 2 of its 7 µs, rank 1 computes 4 of its 9
    assert timeline.exposed_s() == pytest.approx(5e-6)


def test_groups_of_one_collective_do_not_wait_for_each_other():
    t = transfer([0, 1, 2, 3], wire_s=2e-6, group=[0, 0, 1, 1])
    track = run(([0, 1, 2, 3], [local("a", [1e-6, 2e-6, 5e-6, 3e-6]), collective("all_reduce", t, after=(0,))])).tracks[
        0
    ]
    assert (track.end[1] // US).tolist() == [4, 4, 7, 7]


def test_work_without_dependence_hides_under_a_collective():
    t = transfer([0, 1], wire_s=4e-6)
    ops = [collective("dispatch", t), local("shared", [3e-6, 3e-6]), local("experts", [1e-6, 1e-6], after=(0,))]
    timeline = run(([0, 1], ops))
    assert timeline.makespan_s == pytest.approx(5e-6)
    assert timeline.exposed_s() == pytest.approx(1e-6)


def test_a_collective_slows_the_compute_that_it_overlaps():
    t = transfer([0], wire_s=4e-6)
    ops = [collective("dispatch", t, compute_share=0.5), local("shared", [3e-6]), local("next", [1e-6])]
    track = run(([0], ops)).tracks[0]
    # 4 µs at half speed do 2 µs of work; the third runs alone.
    assert (track.end // US).tolist() == [[4], [5], [6]]


def test_two_collectives_share_a_link_and_the_freed_share_is_used():
    short, long = transfer([0], wire_s=2e-6, name="short"), transfer([1], wire_s=6e-6, name="long")
    timeline = run(([0], [collective("short", short)]), ([1], [collective("long", long)]))
    # half speed each until the short one leaves at 4 µs with 2 of 6 µs of the long one done
    assert [int(track.end[0, 0]) // US for track in timeline.tracks] == [4, 8]


def test_a_collective_that_joins_later_slows_only_the_rest():
    first, second = transfer([0], wire_s=4e-6), transfer([1], wire_s=4e-6)
    timeline = run(
        ([0], [collective("first", first)]),
        ([1], [local("work", [2e-6]), collective("second", second, after=(0,))]),
    )
    assert int(timeline.tracks[0].end[0, 0]) == 6 * US
    assert int(timeline.tracks[1].end[1, 0]) == 8 * US


def test_collectives_on_different_links_do_not_slow_each_other():
    def refuse(active, capacity):
        raise AssertionError("nobody shares a link")

    a, b = transfer([0], wire_s=4e-6, links=(0,)), transfer([1], wire_s=4e-6, links=(1,))
    programs = [Program(np.array([r]), (collective("c", t),)) for r, t in enumerate((a, b))]
    timeline = simulate(programs, refuse, np.ones(2))
    assert [int(track.end[0, 0]) // US for track in timeline.tracks] == [4, 4]


def test_sharing_reaches_through_a_third_collective():
    ends = {"a": (0,), "b": (0, 1), "c": (1,)}
    flights = [transfer([r], wire_s=2e-6, links=links, name=name) for r, (name, links) in enumerate(ends.items())]
    seen = []

    def record(active, capacity):
        seen.append([t.name for t in active])
        return max_min(active, capacity)

    programs = [Program(np.array([r]), (collective(t.name, t),)) for r, t in enumerate(flights)]
    simulate(programs, record, np.ones(2))
    assert ["a", "b", "c"] in seen


def test_programs_meet_in_a_shared_collective():
    t = transfer([0, 1], wire_s=1e-6, name="send")
    timeline = run(
        ([0], [local("stage 0", [5e-6]), collective("send", t, after=(0,))]),
        ([1], [collective("send", t), local("stage 1", [2e-6], after=(0,))]),
    )
    assert timeline.makespan_s == pytest.approx(8e-6)


def test_a_collective_may_run_again_before_everybody_has_left_the_first():
    t = transfer([0, 1], wire_s=1e-6)
    timeline = run(
        ([0], [collective("first", t), collective("second", t)]),
        ([1], [local("late", [5e-6]), collective("first", t, after=(0,)), collective("second", t)]),
    )
    assert (timeline.tracks[0].end // US).tolist() == [[6], [7]]
    assert timeline.upper_bound_s() == pytest.approx(7e-6)


def test_programs_that_never_meet_are_bounded_side_by_side():
    apart = [transfer([r], wire_s=4e-6, links=(r,)) for r in range(2)]
    programs = [
        Program(np.array([r]), (local("w", [1e-6]), collective("c", t, after=(0,)))) for r, t in enumerate(apart)
    ]
    timeline = simulate(programs, max_min, np.ones(2))
    assert timeline.upper_bound_s() == pytest.approx(5e-6) == timeline.makespan_s
    together = run(([0], programs[0].ops), ([1], [collective("c", transfer([1], wire_s=4e-6))]))
    assert together.upper_bound_s() == pytest.approx(9e-6)


def test_a_rank_that_never_comes_is_an_error_and_not_a_hang():
    t = transfer([0, 1], wire_s=1e-6, name="dispatch of layer 3")
    with pytest.raises(RuntimeError, match="dispatch of layer 3"):
        run(([0], [collective("dispatch", t)]))


def test_a_program_names_its_mistake():
    with pytest.raises(ValueError, match="must name earlier ops"):
        Program(np.arange(1), (local("a", [1.0], after=(0,)),))
    with pytest.raises(ValueError, match="either seconds or a transfer"):
        Program(np.arange(1), (Op("a", "a", 0, "compute"),))


times = st.floats(0, 1e-3)
two = st.lists(times, min_size=2, max_size=2)


@given(st.lists(st.tuples(two, times, st.floats(0, 0.6), st.booleans()), min_size=1, max_size=12))
def test_simulated_time_lies_between_its_bounds(layers):
    ops = []
    for work, wire, share, hide in layers:
        before = len(ops) - 1
        after = (before,) if ops else ()
        ops.append(collective("dispatch", transfer([0, 1], wire, latency_s=1e-6), after=after, compute_share=share))
        ops.append(local("work", work, after=() if hide else (len(ops) - 1,)))
    timeline = run(([0, 1], ops))
    assert timeline.lower_bound_s() <= timeline.makespan_s + 1e-9
    assert timeline.makespan_s <= timeline.upper_bound_s() + 1e-9


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 0.9))
def test_a_window_delays_work_by_no_more_than_the_share_it_takes(ready, work, begin, length, share):
    arrays = [np.array([value]) for value in (ready, work, begin, begin + length)]
    at, left = stretch(*arrays, share)
    end = int((at + left)[0])
    assert ready + work <= end <= ready + work + share * length + 2
