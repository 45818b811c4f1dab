"""Run programs on the SimPy engine.

Local work between collectives needs no events: a rank's clock is a running maximum and sum, kept as an array over the
ranks of a program. Events are where ranks meet, at collectives. Times are integer picoseconds: equal times are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simpy

from moesim import units
from moesim.engine.program import Op, Program
from moesim.engine.timeline import Timeline, Track, members_of
from moesim.engine.wire import Rates, Wire


def simulate(programs: Sequence[Program], rates: Rates, capacity: np.ndarray) -> Timeline:
    """Run programs to their end and return when everything happened.

    rates: how concurrent collectives share the network, one of `moesim.network.fidelity.FIDELITIES`.
    capacity: [links] bytes/s. Raises RuntimeError when a collective waits for a rank that never comes.
    """
    env = simpy.Environment(initial_time=0)
    wire = Wire(env, rates, capacity)
    tracks = [_blank(program) for program in programs]
    processes = [env.process(_run(track, wire)) for track in tracks]
    env.run()
    if wire.waiting or not all(process.processed for process in processes):
        raise RuntimeError(f"deadlock: ranks never met in {', '.join(wire.waiting) or 'a collective'}")
    return Timeline(tuple(tracks))


def _blank(program: Program) -> Track:
    shape = (len(program.ops), program.ranks.size)
    return Track(program, np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))


def _run(track: Track, wire: Wire):
    """SimPy process of one program: issue in order, block only where an end is needed that is not yet known."""
    program = track.program
    pending: dict[int, tuple[simpy.Event, np.ndarray]] = {}
    last: dict[str, int] = {}  # stream -> its latest op
    taxing: list[int] = []  # collectives that slow compute down while they run

    def known(index: int):
        if index in pending:
            done, members = pending.pop(index)
            finish = yield done
            track.end[index] = finish[members]

    for index, op in enumerate(program.ops):
        before = (*op.after, last[op.stream]) if op.stream in last else op.after
        for needed in before:
            yield from known(needed)
        ready = track.end[list(before)].max(axis=0) if before else np.zeros(program.ranks.size, dtype=np.int64)
        track.start[index] = ready
        if op.transfer is None:
            if op.stream == "compute":
                taxing = [c for c in taxing if c in pending or track.end[c].max() > ready.min()]
                for collective in taxing:
                    yield from known(collective)
            track.end[index] = _end(track, op, ready, taxing if op.stream == "compute" else [])
        else:
            members = members_of(op.transfer.ranks, program.ranks)
            pending[index] = (wire.send(op.transfer, members, ready), members)
            if op.compute_share > 0:
                taxing.append(index)
        last[op.stream] = index
    for index in list(pending):
        yield from known(index)


def _end(track: Track, op: Op, ready: np.ndarray, overlapping: list[int]) -> np.ndarray:
    """End [ranks] in ticks of local work, stretched where collectives on other streams take SMs and bandwidth."""
    work = units.ticks_array(op.seconds)
    for collective in overlapping:
        share = track.program.ops[collective].compute_share
        ready, work = stretch(ready, work, track.start[collective], track.end[collective], share)
    return ready + work


def stretch(
    ready: np.ndarray, work: np.ndarray, begin: np.ndarray, end: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Work through one window of reduced speed. All arrays [ranks] in ticks.

    Before `begin` work proceeds at speed 1, between `begin` and `end` at ``1 − share``. Returns the time reached at the
    end of the window (or of the work) and the work left then. Windows of one stream come in order and never overlap.
    """
    lead = np.clip(begin - ready, 0, work)
    ready, work = ready + lead, work - lead
    window = np.where(ready >= begin, np.maximum(end - ready, 0), 0)
    finished = np.minimum(work, np.floor(window * (1 - share)).astype(np.int64))
    spent = np.where(finished == work, np.ceil(finished / (1 - share)).astype(np.int64), window)
    return ready + spent, work - finished
