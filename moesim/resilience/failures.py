"""What fails in a cluster, how often, and for how long: failure classes as SimPy processes.

The units of a class (devices, nodes, links, switches, power domains) fail independently of each other and without
memory: the time to the next failure of any of n units in operation is exponential with mean MTBF / n, which is what
large clusters report (Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters", HPCA
2025: mean time to failure in inverse proportion to the GPUs of a job). Failures that come together are a class of their
own: a power domain takes all its nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import simpy

from moesim.hardware.topology import Cluster

SCOPES = ("device", "node", "link", "switch", "power_domain")


@dataclass(frozen=True, slots=True)
class FailureClass:
    """Units that fail alike.

    name: one of `SCOPES`, or ``straggler``. units: of the job that can fail. devices: that one of them takes along.
    mtbf_s: mean seconds between failures of one unit. repair_s: until a failed unit is back. slowdown: 0 where its
    devices are gone; else the step takes so many times as long while it lasts (a degraded link, a straggler).
    """

    name: str
    units: int
    devices: int
    mtbf_s: float
    repair_s: float
    slowdown: float = 0.0

    @property
    def rate(self) -> float:
        """Failures per second of all units together."""
        return self.units / self.mtbf_s


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: of which class, which unit, and when (seconds)."""

    of: FailureClass
    unit: int
    at_s: float


def units_of(cluster: Cluster, scope: str, *, devices_per_unit: int = 0) -> tuple[int, int]:
    """(units, devices of each) of a scope on a cluster.

    Devices, nodes and links (a device's way out of its scale-up domain, or all its links where there is one domain
    only) are counted on the topology; switches and power domains are as large as `devices_per_unit` says. Raises
    ValueError where that is missing.
    """
    ranks = cluster.ranks
    if scope in ("device", "link"):
        return ranks, 1
    if scope == "node":
        nodes, counts = np.unique(cluster.node, return_counts=True)
        return nodes.size, int(counts.max())
    if scope not in SCOPES:
        raise ValueError(f"{scope!r} is not one of {', '.join(SCOPES)}")
    if devices_per_unit < 1:
        raise ValueError(f"say how many devices one {scope.replace('_', ' ')} takes along: write devices")
    return -(-ranks // devices_per_unit), min(devices_per_unit, ranks)


def failing(
    env: simpy.Environment, of: FailureClass, rng: np.random.Generator, tell: Callable[[Failure], None]
) -> Iterator[simpy.Event]:
    """SimPy process: failures of a class, for ever. tell: called at each with what failed."""
    while True:
        yield env.timeout(rng.exponential(1 / of.rate))
        tell(Failure(of, int(rng.integers(of.units)), env.now))


def recorded(
    env: simpy.Environment, failures: Iterable[Failure], tell: Callable[[Failure], None]
) -> Iterator[simpy.Event]:
    """SimPy process: failures at the times that a log gives, in rising order."""
    for failure in failures:
        yield env.timeout(failure.at_s - env.now)
        tell(failure)
