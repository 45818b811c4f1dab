"""How long a new server takes until it serves: its devices, and its weights over the real links."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from moesim.cost.communication import message
from moesim.hardware.fabrics.build import build_cluster
from moesim.network.routes import build_network
from moesim.serving.roster import Elastic
from moesim.spec.assembly.step import Assembly
from moesim.spec.serving.scenario import ServingScenario
from moesim.workload.deployment import Deployment
from moesim.workload.footprint import footprint


def elastic_rule(scenario: ServingScenario, decode: Assembly) -> Elastic | None:
    """The scaling rule of a scenario with the seconds that a new server takes to start; None where it states none."""
    rule = scenario.elastic
    if rule is None:
        return None
    start = rule.provision + weights_s(decode, storage=rule.storage)
    return Elastic(
        fewest=rule.fewest,
        most=scenario.servers,
        grow_at=rule.grow_at,
        shrink_at=rule.shrink_at,
        shrink_batch=rule.shrink_batch,
        period_s=rule.period,
        start_s=start,
        grow_batch=rule.grow_batch or math.inf,
    )


def weights_s(placed: Assembly, *, storage: float | None) -> float:
    """Seconds to fill a new server with weights, experts included.

    From a running server: each rank sends its own weights to the same rank of the new one, over the topology of the
    profile with the two in different scale-up domains where domains are full. Or from storage at its bytes/s.
    """
    deployment = placed.deployment
    each = weight_bytes(placed)
    ranks = deployment.parallelism.devices
    if storage is not None:
        return each * ranks / storage
    domain = int(np.bincount(deployment.cluster.domain).max())
    devices = 2 * max(ranks, domain)
    network = build_network(build_cluster(deployment.cluster.hardware, devices))
    source = np.arange(ranks)
    moved = message(deployment.machine, network, source, devices // 2 + source, np.full(ranks, each), fidelity="bound")
    return float((moved.arrived * moved.wire_s + moved.latency_s).max())


def weight_bytes(placed: Assembly) -> float:
    """Bytes of weights on one rank."""
    deployment: Deployment = placed.deployment
    empty = replace(placed.batch, sequences=np.zeros_like(placed.batch.sequences))
    return footprint(deployment, empty, received=0, reserve=0.0).needed
