"""Which links a step loads, with what, and who sends how much to whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moesim.engine.timeline import Timeline
from moesim.network.transfer import Transfer
from moesim.workload.deployment import Deployment
from moesim.workload.inference import Step


@dataclass(frozen=True, slots=True, eq=False)
class LinkLoad:
    """Bytes of one step on every link. kinds: of collectives; load: [kind, link] bytes; utilisation: [link] share of
    the link's capacity over the whole step."""

    kinds: tuple[str, ...]
    load: np.ndarray
    utilisation: np.ndarray


def link_load(deployment: Deployment, timeline: Timeline, rounds: int = 1) -> LinkLoad:
    """Add up what every collective puts on every link. rounds: steps that the timeline holds."""
    capacity = deployment.network.capacity
    load: dict[str, np.ndarray] = {}
    for track in timeline.tracks:
        here = set(track.program.ranks.tolist())
        for op in track.program.ops:
            # A collective of several programs counts in that of its first member.
            if op.transfer is not None and int(op.transfer.ranks[0]) in here:
                row = load.setdefault(op.kind, np.zeros(capacity.size))
                row[op.transfer.links] += op.transfer.load
    table = np.array(list(load.values())) if load else np.zeros((0, capacity.size))
    return LinkLoad(tuple(load), table / rounds, table.sum(axis=0) / (capacity * timeline.makespan_s))


def hottest_links(deployment: Deployment, found: LinkLoad, count: int = 10) -> pd.DataFrame:
    """The most used links, one row each: from, to, links, utilisation, bytes, and ``KIND_bytes`` by kind of collective.

    links: how many a row stands for. A device's links to the planes of its NVLink switches that carry equal parts are
    one row (``nvlink0.*``), with the bytes of one of them.
    """
    alike: dict[tuple, list[int]] = {}
    for link in np.argsort(-found.utilisation, kind="stable").tolist():
        source, target = map(_any_plane, deployment.network.links.ends[link])
        alike.setdefault((source, target, float(f"{found.utilisation[link]:.9g}")), []).append(link)
        if len(alike) > count:
            break
    groups = list(alike.items())[:count]
    first = np.array([links[0] for _, links in groups], dtype=np.int64)
    ends = [deployment.network.links.ends[links[0]] if len(links) == 1 else key[:2] for key, links in groups]
    rows = {
        "from": [source for source, _ in ends],
        "to": [target for _, target in ends],
        "links": [len(links) for _, links in groups],
        "utilisation": found.utilisation[first],
        "bytes": found.load.sum(axis=0)[first],
    }
    return pd.DataFrame(rows | {f"{kind}_bytes": found.load[row, first] for row, kind in enumerate(found.kinds)})


def _any_plane(node: str) -> str:
    """``nvlink0.3`` -> ``nvlink0.*``."""
    return f"{node.rpartition('.')[0]}.*" if node.startswith("nvlink") else node


def bottleneck(deployment: Deployment, transfer: Transfer) -> tuple[str, str] | None:
    """The link that takes longest to pass its part of a collective; None when nothing moves."""
    if not transfer.links.size:
        return None
    slowest = np.argmax(transfer.load / deployment.network.capacity[transfer.links])
    return deployment.network.links.ends[transfer.links[slowest]]


def traffic_matrix(deployment: Deployment, step: Step) -> np.ndarray:
    """Bytes [source rank, destination rank] of all dispatches and combines of a step; own tokens stay at home."""
    total = np.zeros((deployment.cluster.ranks, deployment.cluster.ranks))
    if step.stages[0].alone:
        return total
    hidden, precision = deployment.model.hidden, deployment.precision
    for instance, layers in enumerate(step.traffic):
        for index, layer in zip(step.moe_stages, layers, strict=True):
            stage = step.stages[index]
            here = np.ix_(stage.ranks[instance], stage.ranks[instance])
            total[here] += hidden * (layer.copies * precision.dispatch.bytes + layer.copies.T * precision.combine.bytes)
    np.fill_diagonal(total, 0.0)
    return total
