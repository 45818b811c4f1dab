"""Where single messages are heavy: what one collective takes beyond its bottleneck link.

A bottleneck link is busy from start to end only while some of its flows can fill it. Many messages average out, as
those of routers do, and `flow` is 0-2 % above the bottleneck. A few heavy ones do not: a message that first shares one
link with many and later another takes longer than either link, up to a quarter on small tori. Three looks, each made
only where the one before says so:

1. The heaviest message, alone on its way, takes at least `HEAVY` of the bottleneck's time, and sizes differ.
2. While all flows have moved v bytes, a flow of s bytes moves on at the slowest of its links, each shared by the flows
   larger than v:  ``∫₀ˢ max_l n_l(v)/C_l dv``, n_l: shares of link l. With one link on the way that is the time of
   processor sharing, Σ min(s_i, s)/C; the maximum inside the integral is what the bottleneck link cannot see. It is an
   estimate, no bound (flows that are held up elsewhere have moved less), so it only decides whether to look closer: at
   `GAIN` above the bottleneck.
3. Flows are followed max-min in steps of `STEP` of the time passed, and ends brought forward by as much as they can be
   late.

On 1,100 random cases of up to 64 ranks (lognormal σ 0.5-2, Pareto 1.1-2, routed, uniform; tori, rails, switches, PCIe
and random graphs) at most 7 % were left to `flow`, and above 5 % in one case of 200. Limited to `PAIRS` pairs: beyond,
the bottleneck link answers alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.network.maxmin import distinct_links, drain, incidence
from moesim.network.routes import Network

PAIRS = 64 * 64  # following the flows of 64 ranks takes 0.1 s at most, of 128 ranks more than a second
HEAVY = 0.2
GAIN = 0.02
STEP = 0.02
_LEVELS = 32  # of bytes moved, at which the integral is taken
_REMEMBERED = 256  # sets of pairs


def finish(
    network: Network, source: np.ndarray, target: np.ndarray, traffic: np.ndarray, bottleneck_s: float
) -> np.ndarray | None:
    """Seconds at which each pair's last byte has left, in the shape of traffic (bytes); None: see the bottleneck."""
    if not 1 < traffic.size <= PAIRS or bottleneck_s <= 0:
        return None
    near, far = (np.ascontiguousarray(np.broadcast_to(end, traffic.shape)).ravel() for end in (source, target))
    sizes, key = traffic.ravel(), b"".join(array.tobytes() for array in (near, far, network.capacity))
    moving = (sizes > 0) & (near != far)
    heaviest = (sizes * _remembered(network, key, _alone, near, far))[moving].max(initial=0.0)
    if heaviest < HEAVY * bottleneck_s or np.ptp(sizes[near != far]) == 0:
        return None
    pair, share, capacity = _remembered(network, key + b"links", _links, near, far)
    some = np.flatnonzero(moving[pair])
    share, flows = share[some], pair[some]
    if together(share, sizes[flows], capacity).max() < (1 + GAIN) * bottleneck_s:
        return None
    ends = np.zeros(traffic.size)
    ends[flows] = drain(share, sizes[flows], capacity, STEP, bottleneck_s / 2) / (1 + STEP)
    return ends.reshape(traffic.shape)


def together(share, size: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Seconds [flows] by the integral at the top. share: CSR [flows, links]; size: bytes; capacity: bytes/s."""
    levels = np.unique(np.append(np.quantile(size, np.linspace(0, 1, _LEVELS + 1)), 0.0))
    low, high = levels[:-1], levels[1:]
    moved = np.minimum(size[:, None], high) - np.minimum(size[:, None], low)  # [flows, levels]
    busy = (share.T @ moved) / capacity[:, None]  # [links, levels] seconds
    slowest = np.maximum.reduceat(busy[share.indices], share.indptr[:-1])
    return (slowest * moved / (high - low)).sum(axis=1)


def _remembered(network: Network, key: bytes, make: Callable, near: np.ndarray, far: np.ndarray):
    """What `make` says about some pairs: the same few are asked for in every layer of a model."""
    if key not in network.ways:
        if len(network.ways) >= _REMEMBERED:
            network.ways.clear()
        network.ways[key] = make(network, near, far)
    return network.ways[key]


def _alone(network: Network, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Seconds [pairs] that a byte of each pair takes on the slowest of its links, alone."""
    seconds, some = np.zeros(near.size), np.flatnonzero((near != far) & network.routes.reachable(near, far))
    pair, link, share = network.routes.paths(near[some], far[some])
    np.maximum.at(seconds, some[pair], share / network.capacity[link])
    return seconds


def _links(network: Network, near: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, object, np.ndarray]:
    """(pairs that move, their shares [pairs, links] as scipy CSR, capacities [links]); links that bind alike once."""
    some = np.flatnonzero((near != far) & network.routes.reachable(near, far))
    return some, *distinct_links(incidence(network, near[some], far[some]), network.capacity)
