"""Requests that wait for a server: those it has not looked at yet, and its queue."""

from __future__ import annotations

import heapq
from collections import deque

from moesim.serving.batch import Sequence


class Waiting:
    """inbox: arrived since the server last looked. queue: seen, in order of arrival or by priority; read its truth."""

    __slots__ = ("_by_priority", "inbox", "queue")

    def __init__(self, order: str):
        self._by_priority = order == "priority"
        self.inbox: deque[Sequence] = deque()
        self.queue: deque[Sequence] | list = [] if self._by_priority else deque()

    def __len__(self) -> int:
        return len(self.inbox) + len(self.queue)

    def look(self) -> None:
        """The server sees what has arrived."""
        if self._by_priority:
            for sequence in self.inbox:
                heapq.heappush(self.queue, _ranked(sequence))
        else:
            self.queue.extend(self.inbox)
        self.inbox.clear()

    def first(self) -> Sequence:
        """The next of the queue."""
        return self.queue[0][2] if self._by_priority else self.queue[0]

    def pop(self) -> None:
        """Take the next out of the queue."""
        if self._by_priority:
            heapq.heappop(self.queue)
        else:
            self.queue.popleft()

    def put_back(self, sequence: Sequence) -> None:
        """A request that lost its cache waits again, in front of those that never ran (or by its priority)."""
        if self._by_priority:
            heapq.heappush(self.queue, _ranked(sequence))
        else:
            self.queue.appendleft(sequence)

    def stands_behind_others(self) -> bool:
        """Whether the latest arrival has to wait for earlier ones, whatever it needs."""
        return not self._by_priority and len(self.inbox) + len(self.queue) > 1

    def empty(self) -> list[Sequence]:
        """Everything that waits, the next first, which leaves."""
        seen = [entry[2] for entry in sorted(self.queue)] if self._by_priority else list(self.queue)
        leaving = [*seen, *self.inbox]
        self.queue.clear()
        self.inbox.clear()
        return leaving


def _ranked(sequence: Sequence) -> tuple[int, int, Sequence]:
    return sequence.priority, sequence.index, sequence
