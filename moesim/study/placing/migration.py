"""Moving expert weights between ranks: bytes, and seconds on the real links."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.network import collectives
from moesim.placement.migration import align, moves
from moesim.placement.placement import Placement
from moesim.placement.policies import LEARNING, SERVER_AWARE
from moesim.workload.deployment import Deployment
from moesim.workload.footprint import expert_bytes
from moesim.workload.stage import stages_of


@dataclass(frozen=True, slots=True)
class Migration:
    """bytes: of all weights that change rank, in every instance. seconds: until the last has arrived, when all are sent
    at once over links that carry nothing else."""

    bytes: float
    seconds: float


def migration(deployment: Deployment, old: Placement, new: Placement, node: np.ndarray, instances: int) -> Migration:
    """From one placement of a deployment's experts to another.

    node: [expert-parallel rank] server. A learning policy's ranks are renamed first so that most experts stay: those of
    a server change places freely, and all do where the policy looks at no servers.
    """
    if new.name in LEARNING:
        alike = node if new.name in SERVER_AWARE else np.zeros_like(node)
        new = replace(new, expert=align(old, new, alike))
    whole, size = deployment.parallelism, expert_bytes(deployment)
    traffic = np.zeros((whole.devices, whole.devices))
    for stage in stages_of(deployment):
        inside = np.isin(deployment.model.moe_layers, stage.layers)
        between = moves(old, new, node, np.where(inside, size, 0.0))
        for replica in whole.expert_grid[stage.index]:  # [ep, expert_tp]
            for part in replica.T:  # of every expert, whose bytes these are: it goes to the rank of the same part
                traffic[np.ix_(part, part)] += between
    ranks = np.arange(deployment.cluster.ranks).reshape(instances, -1)
    repeated = np.broadcast_to(traffic, (instances, *traffic.shape))
    transfer = collectives.all_to_all(deployment.network, ranks, repeated, fidelity="bound", name="migration")
    seconds = float(transfer.alone_s.max(initial=0.0)) if traffic.any() else 0.0
    return Migration(float(repeated.sum()), seconds)
