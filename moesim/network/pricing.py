"""From phases of messages to a `Transfer`: when each member is done, what each link carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.errors import InvalidInput
from moesim.network.fidelity import FIDELITIES
from moesim.network.links import accumulate
from moesim.network.maxmin import incidence
from moesim.network.phases import Phase
from moesim.network.routes import Network
from moesim.network.transfer import Transfer


def price(
    network: Network,
    name: str,
    ranks: np.ndarray,
    phases: Sequence[Phase],
    fidelity: str,
    floor_s: float,
    group: np.ndarray | None = None,
    blocking: bool = False,
) -> Transfer:
    """Price phases that follow each other as one collective.

    ranks: [groups, members], flattened into the members of the transfer; group: [members], by default the rows of
    ranks. floor_s: added to every member's latency. blocking: a sender is done only when its messages have arrived, not
    when they have passed its ports. Raises InvalidInput for an unknown fidelity and for bytes that no path can take.
    """
    if fidelity not in FIDELITIES:
        raise InvalidInput(f"network fidelity {fidelity!r} is unknown; write one of {', '.join(FIDELITIES)}")
    tally = _Tally(network, fidelity, blocking)
    for phase in phases:
        tally.add(phase)
    members, links = ranks.ravel(), np.flatnonzero(tally.load)
    rows = np.repeat(np.arange(len(ranks)), ranks.shape[1]) if group is None else group
    share = tally.done[members] / tally.wire_s if tally.wire_s > 0 else np.zeros(len(members))
    return Transfer(
        name=name,
        ranks=members,
        links=links,
        load=tally.load[links],
        wire_s=tally.wire_s,
        arrived=np.minimum(share, 1.0),
        latency_s=tally.latency[members] + floor_s,
        group=rows,
        sent=tally.sent[members],
        received=tally.received[members],
        flows=_stack(tally.flows),
    )


class _Tally:
    """Sums over phases. load: [links] bytes; done, latency (s), sent, received (bytes): [ranks]."""

    def __init__(self, network: Network, fidelity: str, blocking: bool):
        self._network, self._blocking = network, blocking
        self._finish = FIDELITIES[fidelity].finish
        self._keep_flows = fidelity == "flow"
        self.wire_s, self.load = 0.0, np.zeros(network.capacity.size)
        self.done, self.latency, self.sent, self.received = np.zeros((4, network.ranks))
        self.flows: list[object] = []

    def add(self, phase: Phase) -> None:
        """Append a phase that starts when all messages of the one before have arrived."""
        network, source, target = self._network, phase.source, phase.target
        traffic = np.where(source == target, 0.0, phase.traffic)
        load, ends = self._finish(network, source, target, traffic)
        ends *= traffic > 0
        got = latest(target, ends, network.ranks)
        left = latest(source, ends, network.ranks) if self._blocking else network.own_ports(load / network.capacity)
        last = np.maximum(left, got)
        self.done = np.where(last > 0, self.wire_s + last, self.done)
        self.wire_s += float(max(last.max(), ends.max(initial=0.0)))
        self.latency += _latency(network, phase, traffic) * (got > 0)
        self.sent += accumulate(source, traffic, network.ranks)
        self.received += accumulate(target, traffic, network.ranks)
        self.load += load
        if self._keep_flows:
            near, far = (np.broadcast_to(end, traffic.shape)[traffic > 0] for end in (source, target))
            self.flows.append(incidence(network, near, far))


def _latency(network: Network, phase: Phase, traffic: np.ndarray) -> np.ndarray:
    """Seconds [ranks] that messages to each rank are under way, bytes apart."""
    if phase.latency_s is not None:
        return np.full(network.ranks, phase.latency_s)
    if traffic.ndim == 3:  # everybody to everybody: of groups, so it is known after the first time
        seconds = np.zeros(network.ranks)
        seconds[phase.target.ravel()] = network.farthest(phase.target[:, 0, :]).ravel()
        return phase.steps * seconds
    under_way = np.where(traffic > 0, network.latency(phase.source, phase.target), 0.0)
    return phase.steps * latest(phase.target, under_way, network.ranks)


def latest(index: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    """Largest value [size] by index, which broadcasts against value (not negative); 0 where there is none."""
    constant = tuple(a for a in range(value.ndim) if index.shape[a] == 1 and value.shape[a] > 1)
    if constant:
        value = value.max(axis=constant, keepdims=True)
    result = np.zeros(size)
    np.maximum.at(result, np.broadcast_to(index, value.shape).ravel(), value.ravel())
    return result


def _stack(flows: Sequence[object]) -> object | None:
    if not flows:
        return None
    from scipy.sparse import vstack

    return vstack(flows, format="csr")
