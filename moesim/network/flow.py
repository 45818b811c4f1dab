"""The `flow` fidelity: every pair of ranks is a flow, and flows share links max-min. The reference for small cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.network.coflow import demands
from moesim.network.maxmin import distinct_links, drain, fair_rates, incidence
from moesim.network.routes import Network
from moesim.network.transfer import Transfer

# Ends that lie closer than this share of the time passed are handled together; early ones, closer than this share of a
# quarter of the bottleneck's time.
RESOLUTION = 0.005


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
        share, capacity = distinct_links(incidence(network, near[moving], far[moving]), network.capacity)
        least = float((load / network.capacity).max()) / 4
        ends[moving] = drain(share, traffic.ravel()[moving], capacity, RESOLUTION, least)
    return load, ends.reshape(traffic.shape)


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
