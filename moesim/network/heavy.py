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

from dataclasses import dataclass

import numpy as np

from moesim.network.maxmin import distinct_links, drain, incidence
from moesim.network.routes import Network

PAIRS = 64 * 64  # following the flows of 64 ranks takes 0.1 s at most, of 128 ranks more than a second
HEAVY = 0.2
GAIN = 0.02
STEP = 0.02
_LEVELS = 32  # of bytes moved, at which the integral is taken
_REMEMBERED = 256  # sets of pairs; layers of a model ask for the same few again and again


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """Links of some pairs. moving: pairs [flows] that leave their rank. share: CSR [flows, links]; capacity: bytes/s
    [links]; links that bind alike are left out. per_byte: [flows] seconds a byte takes alone.
    """

    moving: np.ndarray
    share: object
    capacity: np.ndarray
    per_byte: np.ndarray


def finish(
    network: Network, source: np.ndarray, target: np.ndarray, traffic: np.ndarray, bottleneck_s: float
) -> np.ndarray | None:
    """Seconds at which each pair's last byte has left, in the shape of traffic (bytes); None: see the bottleneck."""
    if not 1 < traffic.size <= PAIRS or bottleneck_s <= 0:
        return None
    ways = _ways(network, source, target, traffic.shape)
    size = traffic.ravel()[ways.moving]
    if not size.size or (size * ways.per_byte).max() < HEAVY * bottleneck_s or size.min() == size.max():
        return None
    some = np.flatnonzero(size > 0)
    share, size = ways.share[some], size[some]
    if together(share, size, ways.capacity).max() < (1 + GAIN) * bottleneck_s:
        return None
    ends = np.zeros(traffic.size)
    ends[ways.moving[some]] = drain(share, size, ways.capacity, STEP, bottleneck_s / 2) / (1 + STEP)
    return ends.reshape(traffic.shape)


def together(share, size: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Seconds [flows] by the integral at the top. share: CSR [flows, links]; size: bytes; capacity: bytes/s."""
    levels = np.unique(np.append(np.quantile(size, np.linspace(0, 1, _LEVELS + 1)), 0.0))
    low, high = levels[:-1], levels[1:]
    moved = np.minimum(size[:, None], high) - np.minimum(size[:, None], low)  # [flows, levels]
    busy = (share.T @ moved) / capacity[:, None]  # [links, levels] seconds
    slowest = np.maximum.reduceat(busy[share.indices], share.indptr[:-1])
    return (slowest * moved / (high - low)).sum(axis=1)


def _ways(network: Network, source: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> Ways:
    near, far = (np.ascontiguousarray(np.broadcast_to(end, shape)).ravel() for end in (source, target))
    key = b"".join(array.tobytes() for array in (near, far, network.capacity))
    if key not in network.ways:
        if len(network.ways) >= _REMEMBERED:
            network.ways.clear()
        moving = np.flatnonzero((near != far) & network.routes.reachable(near, far))
        share, capacity = incidence(network, near[moving], far[moving]), network.capacity
        if moving.size:
            share, capacity = distinct_links(share, capacity)
        alone = share.multiply(1.0 / capacity).tocsr()
        per_byte = np.maximum.reduceat(alone.data, alone.indptr[:-1]) if moving.size else np.zeros(0)
        network.ways[key] = Ways(moving, share, capacity, per_byte)
    return network.ways[key]
