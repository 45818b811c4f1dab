"""Nodes that replace failed ones: spares at hand, and failed nodes once they are repaired."""

from __future__ import annotations

import heapq


class SparePool:
    """When replacement nodes are ready, as times in seconds. Starts with `spares` ready ones."""

    def __init__(self, spares: int):
        self._ready = [0.0] * spares

    def fail(self, nodes: int, back_s: float) -> None:
        """Some nodes went to repair and are back, as spares, at `back_s`."""
        for _ in range(nodes):
            heapq.heappush(self._ready, back_s)

    def take(self, nodes: int) -> float:
        """Take so many, those that are ready first; returns when the last of them is (seconds)."""
        if nodes > len(self._ready):
            raise ValueError(f"{nodes} nodes wanted, {len(self._ready)} there or in repair")
        return max([heapq.heappop(self._ready) for _ in range(nodes)], default=0.0)
