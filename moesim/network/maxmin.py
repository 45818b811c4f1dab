"""Max-min fair sharing of links by flows: rates, and when each flow is through.

Rates are the unique max-min fair ones (Bertsekas & Gallager, "Data Networks", section 6.5.2) and are found anew
whenever a flow ends. A flow whose traffic is spread over several paths keeps the shares that its routing gives it.
"""

from __future__ import annotations

import numpy as np

from moesim.network.routes import Network


def incidence(network: Network, source: np.ndarray, target: np.ndarray):
    """Share [flows, links] of each flow on each link, as scipy CSR."""
    from scipy.sparse import csr_array

    pair, link, share = network.routes.paths(source, target)
    return csr_array((share, (pair, link)), shape=(len(source), len(network.links.ends)))


def drain(share, size: np.ndarray, capacity: np.ndarray, resolution: float, least_s: float = 0.0) -> np.ndarray:
    """Seconds [flows] until each flow is through, all starting at 0. share: CSR [flows, links]; size: bytes [flows].

    Ends that lie closer than resolution times the time passed (at least `least_s`) are handled together: late by about
    that much at most, never early.
    """
    ends, left = np.zeros(len(size)), size.astype(float)
    active, now = np.arange(len(size)), 0.0
    while len(active):
        rate = fair_rates(share, capacity)
        through = left / rate
        step = through.min() + resolution * max(now, least_s)
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


def distinct_links(share, capacity: np.ndarray):
    """(share, capacity) without links that bind exactly as another does, such as the eighteen planes of one device.

    A link that carries the same flows in the same proportion to its capacity is the same constraint.
    """
    rng = np.random.default_rng(0)
    signature = share.T @ rng.random(share.shape[0]) / capacity
    used = np.flatnonzero(signature > 0)
    keep = used[np.unique(np.round(signature[used] / signature[used].max(), 12), return_index=True)[1]]
    return share[:, keep].tocsr(), capacity[keep]
