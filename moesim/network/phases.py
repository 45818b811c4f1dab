"""How collectives move their bytes: phases of flows, the algorithms as lists of phases.

A phase is a set of messages that share the network at the same time; phases of one collective follow each other. Every
algorithm is a plain function ``(network, ranks [groups, members], size) -> list[Phase]``; `size` is the bytes of a
rank's whole buffer, as in NCCL's tests: what all-reduce reduces, what all-gather ends with, what reduce-scatter starts
with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput
from moesim.network.routes import Network


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """Messages at the same time. source, target: ranks, broadcasting to the shape of traffic (bytes).

    steps: how often the latency of a message is paid one after another (a ring of n ranks needs n − 1). latency_s: of
    the whole phase, where it is not the slowest message's times the steps.
    """

    source: np.ndarray
    target: np.ndarray
    traffic: np.ndarray
    steps: int = 1
    latency_s: float | None = None


Algorithm = Callable[[Network, np.ndarray, float], list[Phase]]


def ring_pass(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """One turn of the rings: every rank hands on (n − 1)/n of its buffer to its successor in n − 1 steps."""
    members = ranks.shape[1]
    source, target, share = rings(network, ranks)
    return [Phase(source, target, share * (size * (members - 1) / members), members - 1)] if members > 1 else []


def ring_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Reduce-scatter and all-gather round the rings: 2 (n − 1)/n of the buffer a hop (Patarasuk & Yuan 2009)."""
    return ring_pass(network, ranks, size) * 2


def direct(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Everybody sends everybody else its n-th part, in one step."""
    members = ranks.shape[1]
    return [_everybody(ranks, size / members)] if members > 1 else []


def direct_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Reduce-scatter and all-gather, each in one direct step ("two-shot")."""
    return direct(network, ranks, size) * 2


def one_shot_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Everybody reads all whole buffers and adds them up: (n − 1) buffers, one step. For small messages."""
    return [_everybody(ranks, size)] if ranks.shape[1] > 1 else []


def nvls_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """NVLink SHARP: the switch adds up and multicasts, so (n + 1)/n of the buffer crosses a port in each direction.

    A rank pulls its n-th part, reduced, out of the switch, which takes the whole buffer up from every rank, and pushes
    the sum back once, which the switch hands down to all. Across domains the parts are all-reduced by rings in between.
    """
    inner, outer = by_domain(network, ranks)
    members = inner.shape[1]
    if not network.switched:
        raise InvalidInput("algorithm nvls needs NVLink switches that add up and multicast; write ring, tree or torus")
    if members == 1:
        return ring_all_reduce(network, ranks, size)
    port = size * (members + 1) / members
    through_switch = _everybody(inner, port / (members - 1))
    return (
        [through_switch]
        if outer is None
        else [_pipelined(network, through_switch, *ring_all_reduce(network, outer, size / members))]
    )


def tree_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Chains inside domains, two complementary binary trees over them, each for half of the buffer, up then down.

    As NCCL's double binary trees (Sanders, Speck & Träff 2009): latency grows with the logarithm of the domains.
    """
    inner, outer = by_domain(network, ranks)
    members = inner.shape[1]
    reduce: list[Phase] = []
    if members > 1:
        # One chain a channel, each ending at another member, so that all ports and NICs share the work.
        order = (np.arange(members)[:, None] + np.arange(members)) % members
        chain = inner[:, order]
        part = np.full(chain[..., 1:].shape, size / members)
        reduce.append(Phase(chain[..., 1:].ravel(), chain[..., :-1].ravel(), part.ravel(), members - 1))
    if outer is not None:
        reduce.append(_trees(outer, size / members))
    broadcast = [Phase(phase.target, phase.source, phase.traffic, phase.steps) for phase in reversed(reduce)]
    return [_pipelined(network, *reduce, *broadcast)] if reduce else []


def torus_pass(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """All-gather or reduce-scatter over a box of a torus, one dimension after another, in both directions at once.

    The buffer is cut into as many parts as the box has dimensions and each part takes the dimensions in another order,
    so that all links work all the time (Sack & Gropp 2015 call it bucket; TPUs do it so).
    """
    return _torus_phases(network, ranks, size)


def torus_all_reduce(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """Reduce-scatter over the dimensions and all-gather back in reverse order."""
    there = _torus_phases(network, ranks, size)
    return there + there[::-1]


def broadcast_chain(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """The first member's buffer goes down the ring in pieces, so that each hop carries all of it (NCCL's ring)."""
    members = ranks.shape[1]
    traffic = np.full(ranks[:, 1:].size, float(size))
    return [Phase(ranks[:, :-1].ravel(), ranks[:, 1:].ravel(), traffic, members - 1)] if members > 1 else []


def broadcast_tree(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    """The first member's buffer goes down a binomial tree, doubling the holders in each phase."""
    phases, have = [], 1
    while have < ranks.shape[1]:
        reach = min(have, ranks.shape[1] - have)
        source, target = ranks[:, :reach].ravel(), ranks[:, have : have + reach].ravel()
        phases.append(Phase(source, target, np.full(source.size, float(size))))
        have += reach
    return phases


def rings(network: Network, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source, target, share of the data) of the hops of NCCL-like rings through the groups [groups, members].

    Inside one domain a single ring in rank order. Over several domains of equal size one ring for each place in the
    domain: ring c enters domain n at place c − n, passes all its ranks and leaves from the place before, which has a
    NIC on the rail of the place where it enters the next domain; so all NICs work and no hop changes rail.
    """
    members = ranks.shape[1]
    inner, outer = by_domain(network, ranks)
    size = inner.shape[1]
    if outer is None or size == 1:
        source, target = ranks.ravel(), np.roll(ranks, -1, axis=1).ravel()
        return source, target, np.ones(source.size)
    domains = members // size
    channel, domain, step = np.ogrid[:size, :domains, :size]
    place = (channel - domain + step) % size
    order = (domain * size + place).reshape(size, members)
    path = ranks[:, order]
    source, target = path.ravel(), np.roll(path, -1, axis=2).ravel()
    return source, target, np.full(source.size, 1.0 / size)


def by_domain(network: Network, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Groups cut at domain borders: (members of one domain [parts, inner], ranks at one place of each [parts, outer]).

    outer is None where groups stay inside a domain. Groups that do not meet their domains evenly count every rank as a
    domain of its own.
    """
    groups, members = ranks.shape
    domain = network.domain[ranks]
    if (domain == domain[:, :1]).all():
        return ranks, None
    inner = int((domain[0] == domain[0, 0]).sum())
    even = (
        members % inner == 0
        and ((cut := domain.reshape(groups, -1, inner)) == cut[:, :, :1]).all()
        and all(len(set(row)) == len(row) for row in cut[:, :, 0].tolist())
    )
    inner = inner if even else 1
    cut = ranks.reshape(groups, -1, inner)
    return cut.reshape(-1, inner), cut.swapaxes(1, 2).reshape(-1, members // inner)


def _everybody(ranks: np.ndarray, each: float) -> Phase:
    groups, members = ranks.shape
    return Phase(ranks[:, :, None], ranks[:, None, :], np.full((groups, members, members), each))


def _pipelined(network: Network, *stages: Phase) -> Phase:
    """Stages that work on different pieces of the buffer at the same time: loads add up, and so do latencies."""
    latency = sum(stage.steps * float(network.latency(stage.source, stage.target).max()) for stage in stages)
    flat = [[np.broadcast_to(a, s.traffic.shape).ravel() for a in (s.source, s.target, s.traffic)] for s in stages]
    return Phase(*(np.concatenate(column) for column in zip(*flat, strict=True)), latency_s=latency)


def _trees(ranks: np.ndarray, size: float) -> Phase:
    """Every member sends half of the buffer to its parent in a heap-ordered tree and half in the mirrored tree."""
    members = ranks.shape[1]
    child = np.arange(1, members)
    parent = (child - 1) // 2
    source = np.concatenate([ranks[:, child], ranks[:, members - 1 - child]], axis=1).ravel()
    target = np.concatenate([ranks[:, parent], ranks[:, members - 1 - parent]], axis=1).ravel()
    return Phase(source, target, np.full(source.size, size / 2), int(np.ceil(np.log2(members))))


def _torus_phases(network: Network, ranks: np.ndarray, size: float) -> list[Phase]:
    lines = torus_lines(network, ranks)
    phases = []
    for turn in range(len(lines)):
        source, target, traffic, steps = [], [], [], 0
        for first in range(len(lines)):
            order = [(first + k) % len(lines) for k in range(turn + 1)]
            left = size / len(lines) / np.prod([lines[axis].shape[1] for axis in order[:-1]])
            line = lines[order[-1]]
            n = line.shape[1]
            for direction in (1, -1):
                source.append(line.ravel())
                target.append(np.roll(line, direction, axis=1).ravel())
                traffic.append(np.full(line.size, left * (n - 1) / n / 2))
            steps = max(steps, n - 1)
        phases.append(Phase(*map(np.concatenate, (source, target, traffic)), steps))
    return phases


def torus_lines(network: Network, ranks: np.ndarray) -> list[np.ndarray]:
    """Rank lines [lines, n] along each dimension of the boxes that the groups fill; dimensions of length 1 left out."""
    coordinates = getattr(network.routes, "coordinates", None)
    if coordinates is None:
        raise InvalidInput("algorithm torus needs a torus (routing: dimension_order); write ring, tree or direct")
    order = [group[np.lexsort(coordinates[group].T[::-1])] for group in ranks]
    place = coordinates[order[0]]
    extent = [len(np.unique(place[:, axis])) for axis in range(place.shape[1])]
    if int(np.prod(extent)) != ranks.shape[1]:
        raise InvalidInput(
            f"a group of {ranks.shape[1]} ranks does not fill a box of the torus; choose groups that are boxes, or "
            "algorithm ring"
        )
    box = np.stack(order).reshape(len(ranks), *extent)
    return [np.moveaxis(box, axis + 1, -1).reshape(-1, n) for axis, n in enumerate(extent) if n > 1]
