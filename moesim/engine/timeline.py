"""What came out of a simulation: when each operation ran on each rank, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim import units
from moesim.engine.program import Op, Program
from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The run of one program. start, end: [op, rank] ticks; a collective starts when the rank arrives at it."""

    program: Program
    start: np.ndarray
    end: np.ndarray

    def busy_s(self) -> np.ndarray:
        """Seconds [op, rank] between start and end, waiting for peers included."""
        return units.seconds(self.end - self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """All tracks of one simulation."""

    tracks: tuple[Track, ...]

    @property
    def makespan_s(self) -> float:
        """Seconds until the last operation of any rank ends."""
        return float(units.seconds(max((int(track.end.max(initial=0)) for track in self.tracks), default=0)))

    def lower_bound_s(self) -> float:
        """The largest busy time of one stream of one rank, every operation alone and at full speed, peers on time.

        Less a tick an operation, which the clock may round away.
        """
        return max(
            (_busiest_stream_s(track.program) - _rounding_s(track.program) for track in self.tracks), default=0.0
        )

    def upper_bound_s(self) -> float:
        """All operations one after another, each as long as its slowest rank, slowed by whatever may overlap it.

        Programs that never meet, neither in a collective nor on a link, run beside each other: the longest set counts.
        Plus a tick an operation, which the clock may round up.
        """
        return max(
            (_in_a_row_s(programs) for programs in _meeting([track.program for track in self.tracks])), default=0.0
        )

    def by_kind_s(self) -> dict[str, float]:
        """Mean over ranks of the seconds spent in each kind of operation; a collective counts its waiting."""
        total: dict[str, float] = {}
        ranks = sum(track.program.ranks.size for track in self.tracks)
        for track in self.tracks:
            for op, busy in zip(track.program.ops, track.busy_s().sum(axis=1), strict=True):
                total[op.kind] = total.get(op.kind, 0.0) + float(busy) / ranks
        return total

    def waiting_s(self) -> dict[str, float]:
        """Mean over ranks of the seconds that collectives of each kind took beyond their time alone: waiting for late
        ranks, and sharing links."""
        waits: dict[str, float] = {}
        ranks = sum(track.program.ranks.size for track in self.tracks)
        for track in self.tracks:
            for op, busy in zip(track.program.ops, track.busy_s(), strict=True):
                if op.transfer is not None:
                    late = np.maximum(busy - op.transfer.alone_s[_members(op, track.program)], 0.0).sum()
                    waits[op.kind] = waits.get(op.kind, 0.0) + float(late) / ranks
        return waits

    def exposed_s(self, stream: str = "compute") -> float:
        """Mean over ranks of the seconds in which `stream` stands still before the rank's last operation ends."""
        idle = [
            units.seconds(track.end.max(axis=0)) - _covered_s(track, _on_stream(track.program.ops, stream))
            for track in self.tracks
        ]
        return float(np.concatenate(idle).mean()) if idle else 0.0


def _on_stream(ops: Sequence[Op], stream: str) -> list[int]:
    return [index for index, op in enumerate(ops) if op.stream == stream]


def _covered_s(track: Track, rows: list[int]) -> np.ndarray:
    """Seconds [rank] during which an operation of the rows (of one stream, so never two at once) runs."""
    return units.seconds((track.end[rows] - track.start[rows]).sum(axis=0))


def _members(op: Op, program: Program) -> np.ndarray:
    return members_of(op.transfer.ranks, program.ranks)


def members_of(transfer_ranks: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Positions [ranks] of a program's ranks within a collective's members."""
    if transfer_ranks.size == ranks.size and np.array_equal(transfer_ranks, ranks):
        return np.arange(ranks.size)
    order = np.argsort(transfer_ranks)
    return order[np.searchsorted(transfer_ranks, ranks, sorter=order)]


def _busiest_stream_s(program: Program) -> float:
    busy: dict[str, np.ndarray] = {}
    for op in program.ops:
        alone = op.seconds if op.transfer is None else op.transfer.alone_s[_members(op, program)]
        busy[op.stream] = busy.get(op.stream, 0.0) + alone
    return max((float(seconds.max(initial=0.0)) for seconds in busy.values()), default=0.0)


def _meeting(programs: Sequence[Program]) -> list[list[Program]]:
    """Programs in sets that share collectives or links, directly or through others."""
    sets: list[tuple[set, list[Program]]] = []
    for program in programs:
        transfers = {id(op.transfer): op.transfer for op in program.ops if op.transfer is not None}
        links = np.unique(np.concatenate([t.links for t in transfers.values()])) if transfers else ()
        touched, members = {("link", int(link)) for link in links} | transfers.keys(), [program]
        apart = []
        for others, known in sets:
            if touched.isdisjoint(others):
                apart.append((others, known))
            else:
                touched, members = touched | others, known + members
        sets = [*apart, (touched, members)]
    return [members for _, members in sets]


def _in_a_row_s(programs: Sequence[Program]) -> float:
    ops = [op for program in programs for op in program.ops]
    share = max((op.compute_share for op in ops), default=0.0)
    local = sum(float(op.seconds.max(initial=0.0)) for op in ops if op.transfer is None)
    collectives = sum(uses * float(transfer.alone_s.max(initial=0.0)) for transfer, uses in _collectives(programs))
    return local / (1 - share) + collectives + sum(_rounding_s(program) for program in programs)


def _rounding_s(program: Program) -> float:
    return len(program.ops) / units.TICKS_PER_SECOND


def _collectives(programs: Sequence[Program]) -> list[tuple[Transfer, int]]:
    """Every collective and how often it runs; programs that meet in one run it together."""
    runs: dict[int, tuple[Transfer, int]] = {}
    for program in programs:
        of_program = Counter(id(op.transfer) for op in program.ops if op.transfer is not None)
        for op in program.ops:
            if op.transfer is not None:
                key = id(op.transfer)
                runs[key] = op.transfer, max(of_program[key], runs[key][1] if key in runs else 0)
    return list(runs.values())
