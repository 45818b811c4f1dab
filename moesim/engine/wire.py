"""The shared network as a SimPy element: collectives join, share links, and leave.

One collective is one event, never a process per message. While it is on the wire it has a progress between 0 and 1; a
member's last byte has arrived when progress passes that member's `arrived`. When the set of collectives on the wire
changes, the network says how fast each goes relative to being alone, and the piecewise-linear progress is continued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import simpy

from moesim import units
from moesim.network.transfer import Transfer

Rates = Callable[[Sequence[Transfer], np.ndarray], np.ndarray]


@dataclass(eq=False)
class _Flight:
    """A collective between its first arrival and the moment its last byte leaves the wire."""

    transfer: Transfer
    arrival: np.ndarray  # [members] ticks, -1 = not yet there
    done: simpy.Event
    start: np.ndarray | None = None  # [members] ticks at which the member's group began
    times: list[float] = field(default_factory=list)  # ticks at which the speed changed …
    progress: list[float] = field(default_factory=list)  # … and the progress there
    rate: float = 1.0
    schedule: int = 0  # counts speed changes; only the latest planned departure holds

    @property
    def wire_ticks(self) -> float:
        return self.transfer.wire_s * units.TICKS_PER_SECOND

    def settle(self, now: float) -> None:
        """Extend the progress to `now` at the current rate."""
        gained = (now - self.times[-1]) * self.rate / self.wire_ticks
        self.progress.append(min(1.0, self.progress[-1] + gained))
        self.times.append(now)

    def leaves_at(self) -> float:
        return self.times[-1] + (1.0 - self.progress[-1]) * self.wire_ticks / self.rate

    def finish(self) -> np.ndarray:
        """Finish [members] in ticks: own group's start, time to its share of progress, fixed latency."""
        begin = self.times[0]
        reached = np.interp(self.transfer.arrived, self.progress, np.asarray(self.times) - begin)
        latency = self.transfer.latency_s * units.TICKS_PER_SECOND
        return self.start + np.rint(reached + latency).astype(np.int64)


class Wire:
    """The network of one simulation. `send` hands in arrivals; the event it returns yields finish times in ticks."""

    def __init__(self, env: simpy.Environment, rates: Rates, capacity: np.ndarray):
        self._env = env
        self._rates = rates
        self._capacity = capacity
        self._boarding: dict[int, list[_Flight]] = {}  # a transfer that runs again may gather before it is done
        self._active: list[_Flight] = []
        self._users = np.zeros(capacity.size, dtype=np.int32)  # collectives on each link

    def send(self, transfer: Transfer, members: np.ndarray, arrival: np.ndarray) -> simpy.Event:
        """Members (positions in the transfer) arrive at the given ticks.

        Returns an event whose value is the finish [all members] in ticks; it fires once every member has arrived and
        the last byte has left the wire.
        """
        boarding = self._boarding.setdefault(id(transfer), [])
        flight = next((f for f in boarding if (f.arrival[members] < 0).all()), None)
        if flight is None:
            flight = _Flight(transfer, np.full(transfer.ranks.size, -1, dtype=np.int64), self._env.event())
            boarding.append(flight)
        flight.arrival[members] = arrival
        if (flight.arrival >= 0).all():
            boarding.remove(flight)
            self._env.process(self._carry(flight))
        return flight.done

    @property
    def waiting(self) -> list[str]:
        """Names of collectives that some member never reached; after a run, a deadlock."""
        return [flight.transfer.name for flights in self._boarding.values() for flight in flights]

    def _carry(self, flight: _Flight):
        group_start = np.zeros(int(flight.transfer.group.max(initial=0)) + 1, dtype=np.int64)
        np.maximum.at(group_start, flight.transfer.group, flight.arrival)
        flight.start = group_start[flight.transfer.group]
        begin = max(int(group_start.min()), self._env.now)
        if begin > self._env.now:
            yield self._env.timeout(begin - self._env.now)
        flight.times.append(begin)
        flight.progress.append(0.0)
        if flight.wire_ticks > 0:
            self._users[flight.transfer.links] += 1
            self._active.append(flight)
            self._share(flight)
        else:
            flight.times.append(begin)
            flight.progress.append(1.0)
            flight.done.succeed(flight.finish())

    def _share(self, changed: _Flight) -> None:
        """A collective joined or left: settle those that share links with it, directly or through others, and set
        their new speeds."""
        flights = self._sharing(changed)
        for flight in flights:
            if flight.times[-1] < self._env.now:
                flight.settle(self._env.now)
        if len(flights) == 1:
            flights[0].rate = 1.0
        elif flights:
            rates = self._rates([flight.transfer for flight in flights], self._capacity)
            for flight, rate in zip(flights, rates, strict=True):
                flight.rate = float(rate)
        for flight in flights:
            flight.schedule += 1
            self._env.process(self._leave(flight, flight.schedule))

    def _sharing(self, changed: _Flight) -> list[_Flight]:
        """Active collectives joined to one by shared links, itself included while it is active, in order of arrival."""
        still_here = changed in self._active
        if (self._users[changed.transfer.links] <= still_here).all():
            return [changed] if still_here else []  # the common case: nobody else on any of its links
        reached = np.zeros(self._capacity.size, dtype=bool)
        reached[changed.transfer.links] = True
        found: set[int] = set()
        while True:
            new = [f for f in self._active if id(f) not in found and reached[f.transfer.links].any()]
            if not new:
                return [f for f in self._active if id(f) in found]
            for flight in new:
                found.add(id(flight))
                reached[flight.transfer.links] = True

    def _leave(self, flight: _Flight, schedule: int):
        yield self._env.timeout(max(0, round(flight.leaves_at()) - self._env.now))
        if schedule != flight.schedule:
            return  # the speed changed in between, and a later schedule stands
        flight.times.append(flight.leaves_at())
        flight.progress.append(1.0)
        self._active.remove(flight)
        self._users[flight.transfer.links] -= 1
        flight.done.succeed(flight.finish())
        self._share(flight)
