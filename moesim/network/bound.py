"""The `bound` fidelity: the bottleneck link decides, and collectives do not disturb each other.

A collective can end no sooner than its most loaded link takes to pass its bytes at full capacity; every pair is taken
to end when the slowest link on its way does. Cheapest, and a true lower bound for one collective alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.network.routes import Network
from moesim.network.transfer import Transfer


def finish(
    network: Network, source: np.ndarray, target: np.ndarray, traffic: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Load [links] in bytes and the second at which each pair's last byte has left its slowest link, latency excluded.

    source, target: ranks, broadcasting to the shape of traffic (bytes). Pairs without bytes end at 0.
    """
    load = network.load(source, target, traffic)
    return load, network.worst(source, target, load / network.capacity, traffic.shape)


def rates(active: Sequence[Transfer], capacity: np.ndarray) -> np.ndarray:
    """Everybody runs as if alone."""
    return np.ones(len(active))
