"""The `coflow` fidelity, the default: concurrent collectives share links max-min, each as one vector of link loads.

A collective makes progress on all of its links at once (Chowdhury & Stoica, "Coflow: a networking abstraction for
cluster applications", HotNets 2012): at speed 1 it puts load/wire_s bytes/s on every link it uses, and its own
bottleneck is full. Speeds of concurrent collectives rise together until a link is full, those that use it stop there,
the rest go on (progressive filling; Bertsekas & Gallager, "Data Networks", section 6.5.2), and nobody exceeds 1.
Alone, a collective takes what its bottleneck link takes, and where single messages are heavy what
`moesim.network.heavy` finds beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.network import bound, heavy
from moesim.network.routes import Network
from moesim.network.transfer import Transfer


def finish(
    network: Network, source: np.ndarray, target: np.ndarray, traffic: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Load [links] in bytes and the second at which each pair's last byte has left, latency excluded.

    source, target: ranks, broadcasting to the shape of traffic (bytes). Pairs without bytes end at 0. The last end is
    never before that of `bound`.
    """
    load, ends = bound.finish(network, source, target, traffic)
    bottleneck = float((load / network.capacity).max(initial=0.0))
    followed = heavy.finish(network, source, target, traffic, bottleneck)
    if followed is None:
        return load, ends
    late = max(bottleneck / followed.max(), 1.0)
    return load, followed * late


def rates(active: Sequence[Transfer], capacity: np.ndarray) -> np.ndarray:
    """Speeds [active] in (0, 1] relative to being alone; no link carries more than its capacity (bytes/s, [links])."""
    demand = demands(active, capacity)
    speed = np.zeros(len(active))
    rising = np.ones(len(active), dtype=bool)
    while rising.any():
        free = 1.0 - demand.T @ speed
        push = demand[rising].sum(axis=0)
        steps = np.divide(free, push, out=np.full_like(free, np.inf), where=push > 0)
        step = min(float(steps.min(initial=np.inf)), float((1.0 - speed[rising]).min()))
        speed[rising] += max(step, 0.0)
        full = steps <= step * (1 + 1e-12) + 1e-15
        stopped = (demand[:, full] > 0).any(axis=1) | (speed >= 1.0 - 1e-12)
        rising &= ~stopped
    return np.clip(speed, 1e-9, 1.0)


def demands(active: Sequence[Transfer], capacity: np.ndarray) -> np.ndarray:
    """Share [active, used links] of each link's capacity that each collective takes when alone at speed 1."""
    used, where = np.unique(np.concatenate([transfer.links for transfer in active]), return_inverse=True)
    demand, begin = np.zeros((len(active), len(used))), 0
    for row, transfer in enumerate(active):
        columns = where[begin : begin + len(transfer.links)]
        begin += len(transfer.links)
        if transfer.wire_s > 0:
            demand[row, columns] = transfer.load / transfer.wire_s / capacity[transfer.links]
    return demand
