"""Collectives on a network: each function makes the `Transfer` that the engine runs.

`ranks` is [members] for one group or [groups, members] for several equal groups that are one collective together (the
tensor-parallel groups of a cluster). `size` is the bytes of a rank's whole buffer, as in NCCL's tests. `fidelity` names
an entry of `moesim.network.fidelity.FIDELITIES`; `floor_s` is added to every member's latency (launch, kernel floor).

A member is done when its last byte has arrived and its own bytes have passed its own ports: `arrived` tells for each
member when that is, so a rank with little traffic finishes before the hottest one. It does not wait for what others
still have to receive, as with posted writes and receive hooks; a message's sender does (`point_to_point`). These
functions know the wire only; what kernels add (floors, SM-limited rates, reached shares of the link rate) is in
`moesim.cost.communication`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.errors import InvalidInput
from moesim.network import phases
from moesim.network.phases import Algorithm, Phase
from moesim.network.pricing import price
from moesim.network.routes import Network
from moesim.network.transfer import Transfer

ALL_REDUCE: dict[str, Algorithm] = {
    "ring": phases.ring_all_reduce,
    "tree": phases.tree_all_reduce,
    "nvls": phases.nvls_all_reduce,
    "one_shot": phases.one_shot_all_reduce,
    "two_shot": phases.direct_all_reduce,
    "torus": phases.torus_all_reduce,
}
ALL_GATHER: dict[str, Algorithm] = {"ring": phases.ring_pass, "direct": phases.direct, "torus": phases.torus_pass}
REDUCE_SCATTER: dict[str, Algorithm] = dict(ALL_GATHER)
BROADCAST: dict[str, Algorithm] = {"chain": phases.broadcast_chain, "tree": phases.broadcast_tree}
ALL_TO_ALL = ("flat", "pairwise", "two_hop")


def all_to_all(
    network: Network,
    ranks: np.ndarray,
    traffic: np.ndarray,
    *,
    algorithm: str = "flat",
    fidelity: str = "coflow",
    floor_s: float = 0.0,
    name: str = "all_to_all",
) -> Transfer:
    """Any bytes from any member to any other.

    traffic: [source, target] bytes, or [groups, source, target]; its diagonal stays on the rank. algorithm: ``flat``
    sends all at once; ``pairwise`` in rounds, rank i to i + r in round r; ``two_hop`` first inside the domain to the
    member at the target's place, then across (on one domain the same as flat).
    """
    ranks = _groups(network, ranks)
    traffic = np.asarray(traffic, dtype=float).reshape(-1, *np.shape(traffic)[-2:])
    if traffic.shape != (*ranks.shape, ranks.shape[1]):
        raise InvalidInput(f"traffic is {traffic.shape} for ranks {ranks.shape}; give [groups, members, members]")
    if not (np.isfinite(traffic).all() and traffic.min(initial=0.0) >= 0):
        raise InvalidInput("traffic holds negative or infinite bytes")
    if algorithm == "flat":
        steps = [Phase(ranks[:, :, None], ranks[:, None, :], traffic)]
    elif algorithm == "pairwise":
        steps = _pairwise(ranks, traffic)
    elif algorithm == "two_hop":
        steps = _two_hop(network, ranks, traffic)
    else:
        raise InvalidInput(f"all-to-all algorithm {algorithm!r} is unknown; write one of {', '.join(ALL_TO_ALL)}")
    return price(network, name, ranks, steps, fidelity, floor_s)


def all_reduce(network: Network, ranks: np.ndarray, size: float, *, algorithm: str = "", **options) -> Transfer:
    """Sum the members' buffers of `size` bytes; everybody gets the sum. algorithm: a key of `ALL_REDUCE`.

    Default: ``torus`` on a torus box, ``two_shot`` on a full mesh, else ``ring``. options: fidelity, floor_s, name, as
    for `all_to_all`.
    """
    return _run(network, "all_reduce", ranks, size, ALL_REDUCE, algorithm, **options)


def all_gather(network: Network, ranks: np.ndarray, size: float, *, algorithm: str = "", **options) -> Transfer:
    """Everybody gets everybody's n-th part of a buffer of `size` bytes. algorithm: a key of `ALL_GATHER`."""
    return _run(network, "all_gather", ranks, size, ALL_GATHER, algorithm, **options)


def reduce_scatter(network: Network, ranks: np.ndarray, size: float, *, algorithm: str = "", **options) -> Transfer:
    """Sum the members' buffers of `size` bytes and leave each an n-th part. algorithm: a key of `REDUCE_SCATTER`."""
    return _run(network, "reduce_scatter", ranks, size, REDUCE_SCATTER, algorithm, **options)


def broadcast(network: Network, ranks: np.ndarray, size: float, *, algorithm: str = "chain", **options) -> Transfer:
    """The first member's buffer of `size` bytes to all others. algorithm: a key of `BROADCAST`."""
    return _run(network, "broadcast", ranks, size, BROADCAST, algorithm, **options)


def point_to_point(
    network: Network,
    source: np.ndarray,
    target: np.ndarray,
    size: np.ndarray,
    *,
    fidelity: str = "coflow",
    floor_s: float = 0.0,
    name: str = "point_to_point",
) -> Transfer:
    """Messages of size [messages] bytes from source [messages] to target [messages]: pipeline hand-over, KV transfer.

    Members are all ranks that occur; those joined by messages wait for each other and form a group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    source, target = np.atleast_1d(source), np.atleast_1d(target)
    size = np.broadcast_to(np.asarray(size, dtype=float), source.shape)
    ranks, where = np.unique(np.concatenate([source, target]), return_inverse=True)
    _check_ranks(network, ranks)
    ends = where[: source.size], where[source.size :]
    joined = coo_array((np.ones(source.size), ends), shape=(ranks.size, ranks.size))
    group = connected_components(joined, directed=False)[1]
    return price(network, name, ranks, [Phase(source, target, size)], fidelity, floor_s, group, blocking=True)


def _run(
    network: Network,
    kind: str,
    ranks: np.ndarray,
    size: float,
    algorithms: Mapping[str, Algorithm],
    algorithm: str,
    *,
    fidelity: str = "coflow",
    floor_s: float = 0.0,
    name: str = "",
) -> Transfer:
    ranks = _groups(network, ranks)
    if not (np.isfinite(size) and size >= 0):
        raise InvalidInput(f"{kind} of {size} bytes; write a size of 0 or more")
    algorithm = algorithm or _usual(network, ranks, kind)
    if algorithm not in algorithms:
        raise InvalidInput(f"{kind} algorithm {algorithm!r} is unknown; write one of {', '.join(algorithms)}")
    return price(network, name or kind, ranks, algorithms[algorithm](network, ranks, size), fidelity, floor_s)


def _usual(network: Network, ranks: np.ndarray, kind: str) -> str:
    """The algorithm that suits the fabric: all dimensions of a torus, all links of a mesh, else rings."""
    if network.torus and _boxes(network, ranks):
        return "torus"
    inside = (network.domain[ranks] == network.domain[ranks][:, :1]).all()
    if network.meshed and inside and not network.torus:
        return "two_shot" if kind == "all_reduce" else "direct"
    return "ring"


def _boxes(network: Network, ranks: np.ndarray) -> bool:
    """Whether groups fill boxes of a torus."""
    try:
        return bool(phases.torus_lines(network, ranks)) or ranks.shape[1] == 1
    except InvalidInput:
        return False


def _groups(network: Network, ranks: np.ndarray) -> np.ndarray:
    ranks = np.atleast_2d(np.asarray(ranks, dtype=np.int64))
    _check_ranks(network, ranks)
    return ranks


def _check_ranks(network: Network, ranks: np.ndarray) -> None:
    if ranks.size == 0 or ranks.min() < 0 or ranks.max() >= network.ranks:
        raise InvalidInput(
            f"ranks must lie in 0 … {network.ranks - 1}; got {np.unique(ranks)[[0, -1]] if ranks.size else 'none'}"
        )
    if np.bincount(ranks.ravel()).max() > 1:
        raise InvalidInput(f"rank {int(np.bincount(ranks.ravel()).argmax())} takes part twice in one collective")


def _pairwise(ranks: np.ndarray, traffic: np.ndarray) -> list[Phase]:
    members = ranks.shape[1]
    near = np.arange(members)
    rounds = [(near + r) % members for r in range(1, members)]
    return [Phase(ranks.ravel(), ranks[:, far].ravel(), traffic[:, near, far].ravel()) for far in rounds]


def _two_hop(network: Network, ranks: np.ndarray, traffic: np.ndarray) -> list[Phase]:
    """Inside each domain to the member at the target's place, then across between members at the same place."""
    inner, outer = phases.by_domain(network, ranks)
    if outer is None or inner.shape[1] == 1:
        return [Phase(ranks[:, :, None], ranks[:, None, :], traffic)]
    groups, members = ranks.shape
    size = inner.shape[1]
    parts = traffic.reshape(groups, members // size, size, members // size, size)
    # [group, domain, source place, target place]: everything for a place, whatever its domain.
    first = Phase(inner[:, :, None], inner[:, None, :], parts.sum(axis=3).reshape(-1, size, size))
    # [group, place, source domain, target domain]: gathered from all source places.
    second = parts.sum(axis=2).transpose(0, 3, 1, 2).reshape(-1, members // size, members // size)
    return [first, Phase(outer[:, :, None], outer[:, None, :], second)]
