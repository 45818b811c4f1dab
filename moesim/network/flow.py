"""The `flow` fidelity: every pair of ranks is a flow, and flows share links max-min. The reference for small cases.

Rates are the unique max-min fair ones (Bertsekas & Gallager, "Data Networks", section 6.5.2) and are found anew
whenever a flow ends. A flow whose traffic is spread over several paths keeps the shares that its routing gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.network.coflow import demands
from moesim.network.routes import Network
from moesim.network.transfer import Transfer

RESOLUTION = 0.005  # ends that lie closer than this share of the time passed are handled together


def finish(
    network: Network, source: np.ndarray, target: np.ndarray, traffic: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Load [links] in bytes and the second at which each pair's last byte has left, latency excluded.

    source, target: ranks, broadcasting to the shape of traffic (bytes). Pairs without bytes end at 0. Ends are late by
    at most `RESOLUTION`, never early.
    """
    load = network.load(source, target, traffic)
    near, far = (np.broadcast_to(end, traffic.shape).ravel() for end in (source, target))
    moving = np.flatnonzero((traffic.ravel() > 0) & (near != far))
    ends = np.zeros(traffic.size)
    if len(moving):
        share = incidence(network, near[moving], far[moving])
        ends[moving] = drain(share, traffic.ravel()[moving], network.capacity)
    return load, ends.reshape(traffic.shape)


def incidence(network: Network, source: np.ndarray, target: np.ndarray):
    """Share [flows, links] of each flow on each link, as scipy CSR."""
    from scipy.sparse import csr_array

    pair, link, share = network.routes.paths(source, target)
    return csr_array((share, (pair, link)), shape=(len(source), len(network.links.ends)))


def drain(share, size: np.ndarray, capacity: np.ndarray, resolution: float = RESOLUTION) -> np.ndarray:
    """Seconds [flows] until each flow is through, all starting at 0. share: CSR [flows, links]; size: bytes [flows]."""
    share, capacity = _distinct_links(share, capacity)
    ends, left = np.zeros(len(size)), size.astype(float)
    active, now = np.arange(len(size)), 0.0
    while len(active):
        rate = fair_rates(share, capacity)
        through = left / rate
        step = through.min() + resolution * now
        done = through <= step * (1 + 1e-12)
        ends[active[done]] = now + through[done]
        # Flows that end inside the step keep their place on the links until its end, so that nothing ends early.
        left = left[~done] - rate[~done] * step
        now, active = now + step, active[~done]
        share = share[np.flatnonzero(~done)]
    return ends


def fair_rates(share, capacity: np.ndarray) -> np.ndarray:
    """Max-min fair rates [flows] in bytes/s. share: CSR [flows, links]; capacity: bytes/s [links].

    Each round fixes all flows of every link whose fair share is the least that any of its flows meets: such links do
    not wait for each other.
    """
    rate = np.zeros(share.shape[0])
    waiting = np.arange(share.shape[0])  # flows without a rate; `link` and `part` hold theirs, flow after flow
    hops, link, part = np.diff(share.indptr), share.indices, share.data
    free = capacity.astype(float)
    while len(waiting):
        push = np.bincount(link, weights=part, minlength=len(free))
        fair = np.divide(free, push, out=np.full_like(free, np.inf), where=push > 0)
        least = np.minimum.reduceat(fair[link], np.cumsum(hops) - hops)
        loses = np.repeat(least, hops) < fair[link] * (1 - 1e-12)
        waits_for_others = np.bincount(link[loses], minlength=len(free)) > 0
        settled = np.zeros(len(waiting), dtype=bool)
        settled[np.repeat(np.arange(len(waiting)), hops)[~waits_for_others[link]]] = True
        rate[waiting[settled]] = least[settled]
        gone = np.repeat(settled, hops)
        used = np.bincount(link[gone], weights=(part * np.repeat(least, hops))[gone], minlength=len(free))
        free = np.maximum(free - used, 0.0)
        waiting, hops, link, part = waiting[~settled], hops[~settled], link[~gone], part[~gone]
    return rate


def rates(active: Sequence[Transfer], capacity: np.ndarray) -> np.ndarray:
    """Speeds [active] in (0, 1] relative to being alone.

    All flows of the active collectives share links max-min; a collective goes as fast as the flow that loses most
    against the collective being alone. Needs transfers made with ``fidelity="flow"``.
    """
    from scipy.sparse import vstack

    together = fair_rates(vstack([transfer.flows for transfer in active], format="csr"), capacity)
    speed, begin = np.ones(len(active)), 0
    for row, transfer in enumerate(active):
        count = transfer.flows.shape[0]
        if count:
            speed[row] = (together[begin : begin + count] / fair_rates(transfer.flows, capacity)).min()
        begin += count
    # Averaged over its time a collective may lean on a link more than it does at its start: keep every link within
    # its capacity all the same.
    speed = np.clip(speed, 1e-9, 1.0)
    demand = demands(active, capacity)
    over = np.maximum(demand.T @ speed, 1.0)
    return speed / np.where(demand > 0, over, 1.0).max(axis=1, initial=1.0)


def _distinct_links(share, capacity: np.ndarray):
    """Drop links that bind exactly as another does, such as the eighteen NVLink planes of one device."""
    rng = np.random.default_rng(0)
    signature = share.T @ rng.random(share.shape[0]) / capacity
    used = np.flatnonzero(signature > 0)
    # A link that carries the same flows in the same proportion to its capacity is the same constraint.
    keep = used[np.unique(np.round(signature[used] / signature[used].max(), 12), return_index=True)[1]]
    return share[:, keep].tocsr(), capacity[keep]
