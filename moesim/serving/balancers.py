"""Which server takes a request: functions of (servers that are up, request, turn), by name in `BALANCERS`."""

from __future__ import annotations

from collections.abc import Sequence as Many

from moesim.serving.batch import Sequence
from moesim.serving.replica import Replica


def round_robin(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """One after another."""
    return turn % len(servers)


def least_loaded(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """The server with the fewest requests in it; the first of several."""
    best, fewest = 0, servers[0].in_system
    for index, server in enumerate(servers):
        if server.in_system < fewest:
            best, fewest = index, server.in_system
    return best


def kv_aware(servers: Many[Replica], sequence: Sequence, turn: int) -> int:
    """The server whose cache holds most of the prompt, then the one with the fewest requests in it."""

    def worth(index: int) -> tuple[int, int]:
        server = servers[index]
        return -max(rank.cache.lookup(sequence.prefix) for rank in server.ranks), server.in_system

    return min(range(len(servers)), key=worth)


BALANCERS = {"round_robin": round_robin, "least_loaded": least_loaded, "kv_aware": kv_aware}
