"""A cluster: the devices of a job as nodes of a directed graph whose edges are the links.

Builders (one fabric a function) live beside this file; they all hand on a `Cluster`, and nothing above asks which
builder made it, except through the attributes below.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from moesim.hardware.device import Hardware


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Ranks on a topology graph.

    graph: a `networkx.DiGraph`; every edge has ``capacity`` (bytes/s, one direction), ``latency`` (s) and ``kind``
        (``nvlink``, ``infiniband``, ``ici``, ``pcie`` …); every node has ``kind`` (``device``, ``switch``, ``nic`` …).
    devices: [ranks] graph node of each rank.
    node: [ranks] index of the server (NVLink tray, TPU host) that holds the rank.
    domain: [ranks] index of the scale-up domain (NVLink domain, TPU slice) that holds the rank.
    routing: how traffic finds its way, a key of `moesim.network.routes.ROUTINGS`.
    options: what that routing needs (torus ``shape`` and ``wrap``, spreading over equal paths …).
    """

    name: str
    hardware: Hardware
    graph: nx.DiGraph
    devices: tuple[str, ...]
    node: np.ndarray
    domain: np.ndarray
    routing: str
    options: dict = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Number of devices."""
        return len(self.devices)
