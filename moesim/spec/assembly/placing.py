"""From a checked scenario and a trace to a placement of experts, and of the step's sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.exchange import KERNELS
from moesim.errors import InvalidInput, Problem
from moesim.hardware.precision import Precision
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism
from moesim.network.routes import Network
from moesim.placement.evidence import Evidence
from moesim.placement.placement import Placement
from moesim.placement.policies import POLICIES
from moesim.placement.sequences import ARRANGEMENTS
from moesim.placement.sequences import Batch as DrawnSequences
from moesim.routing.latent import Geometry
from moesim.routing.load import choices, count_choices, expert_load
from moesim.routing.relabel import relabel_load
from moesim.routing.replay import Routes
from moesim.routing.trace import RouterTrace
from moesim.spec.reading.kinds import Kind
from moesim.workload.deployment import Batch

_SAMPLE = 4096  # tokens that policies look at one by one
_MOST_RANKS = 512  # whose pairwise links topology_aware looks at: a quarter of a million pairs
_TRAFFIC_POLICIES = ("affinity", "topology_aware")  # mean nothing where no token travels


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where experts are placed. labels: [layer, expert] numbers of the model's experts for those of the trace."""

    model: MoEModel
    geometry: Geometry
    cluster: Cluster
    network: Network
    parallelism: Parallelism
    labels: np.ndarray
    kernel: str
    wire: tuple[Precision, Precision]
    seed: int

    @property
    def node(self) -> np.ndarray:
        """[expert-parallel rank] server."""
        return self.cluster.node[self.expert_ranks]

    @property
    def expert_ranks(self) -> np.ndarray:
        """[expert-parallel rank] its first rank, in the first stage of the first instance; all are laid out alike."""
        return self.parallelism.expert_grid[0, 0, :, 0]

    @property
    def alone(self) -> bool:
        """Whether every rank holds all tokens, so that nothing is dispatched."""
        return self.parallelism.attention_dp * self.parallelism.cp == 1


def place_experts(kind: Kind, site: Site, learned: RouterTrace, load: np.ndarray | None = None) -> Placement:
    """The placement that a policy learns from a trace, or from loads [layer, expert] of the model that stand for it.

    kind: the scenario's ``placement``. Raises InvalidInput naming the key to change.
    """
    if kind.kind in _TRAFFIC_POLICIES and site.alone:
        message = f"{kind.kind} cuts traffic, but without attention_dp or cp every rank holds all tokens and sends none"
        raise InvalidInput(Problem(f"{message}; write eplb or replicate_hot", "kind"))
    if load is None:
        load = relabel_load(expert_load(learned), site.labels)
    evidence = _evidence(kind, site, learned)
    try:
        placement = POLICIES[kind.kind](load, site.parallelism.ep, evidence, **kind.options())
    except ValueError as error:
        about = str(error).split(" ")[0]  # a key, the policy itself, or else the room that it has
        field = about if about in kind.options() else "kind" if about == kind.kind else "slots_per_rank"
        raise InvalidInput(Problem(str(error), field)) from None
    return replace(placement, choice=kind.replica_choice, seed=site.seed)


def _evidence(kind: Kind, site: Site, learned: RouterTrace) -> Evidence:
    depth, experts = learned.layers, site.geometry.experts
    tokens = np.unique(np.linspace(0, learned.tokens - 1, min(_SAMPLE, learned.tokens)).astype(int))
    source = None
    if kind.sequences == "by_label" and learned.labels:
        servers = len(np.unique(site.node))
        codes = np.unique(learned.labels, return_inverse=True)[1][_sequence_of(learned, tokens)]
        tokens = tokens[np.argsort(codes, kind="stable")]
        source = np.arange(len(tokens)) * servers // len(tokens)

    def sample(layer: int) -> np.ndarray:
        ids = choices(learned, tokens, slice(layer % depth, layer % depth + 1))[:, 0]
        return np.append(site.labels[layer], experts)[ids]

    level = KERNELS[site.kernel].level
    toll = _toll(site) if kind.kind == "topology_aware" else None
    return Evidence(site.node, site.geometry.groups, sample, source, level, toll, site.seed)


def _toll(site: Site) -> object:
    """Seconds (see `Evidence.toll`) that one copy from a server's average rank to a rank, and its answer, take."""
    from scipy.sparse import coo_array

    homes = site.expert_ranks
    others = np.sort(site.parallelism.grid[0].ravel())
    if (ranks := len(others)) > _MOST_RANKS:
        message = f"topology_aware looks at the links between all pairs of ranks, at most {_MOST_RANKS} ranks"
        raise InvalidInput(Problem(f"{message}, not {ranks}; write affinity or eplb", "kind"))
    servers, server = np.unique(site.cluster.node[others], return_inverse=True)
    if len(servers) != len(np.unique(site.node)):
        message = "topology_aware needs the parts of an expert in one server; write affinity or eplb"
        raise InvalidInput(Problem(message, "kind"))
    near, home = (pair.ravel() for pair in np.indices((ranks, len(homes))))
    apart = others[near] != homes[home]
    near, home = near[apart], home[apart]
    weight = 1 / np.bincount(server)[server]  # of a rank in its server's average
    dispatch, combine = (site.model.hidden * precision.bytes for precision in site.wire)
    rows, columns, seconds = [], [], []
    for size, source, target in (
        (dispatch, others[near], homes[home]),
        (combine, homes[home], others[near]),
    ):
        pair, link, share = site.network.routes.paths(source, target)
        rows.append(server[near[pair]] * len(homes) + home[pair])
        columns.append(link)
        seconds.append(size * share / site.network.capacity[link] * weight[near[pair]])
    entries = (np.concatenate(seconds), (np.concatenate(rows), np.concatenate(columns)))
    return coo_array(entries, shape=(len(servers) * len(homes), site.network.capacity.size)).tocsr()


def arrange(
    kind: Kind, site: Site, trace: RouterTrace, batch: Batch, routes: Routes, placement: Placement, instances: int
) -> Routes:
    """The step's routes with the drawn sequences on the ranks that the scenario wants them on.

    A sequence keeps its tokens together; each block of layers, which drew other sequences, is arranged by the same
    rule. Routes without a trace (balanced ones) stay as they are: their tokens are all alike.
    """
    if kind.sequences == "as_drawn" or not len(routes.tokens):
        return routes
    unit, depth = batch.new_tokens, trace.layers
    replicas = np.tile(batch.sequences, instances)
    rank = np.repeat(np.arange(len(replicas)), replicas)
    homes = site.cluster.node[site.parallelism.grid[0, :, 0, 0]]  # [attention replica] of one instance
    servers = np.union1d(homes, site.node)
    server = (np.arange(instances)[:, None] * len(servers) + np.searchsorted(servers, homes)).ravel()
    labels = np.unique(trace.labels, return_inverse=True)[1] if trace.labels else np.zeros(trace.sequences, dtype=int)
    liking = np.tile(_liking(site, trace, placement, servers), (1, instances))
    ids, tokens = routes.ids.copy(), routes.tokens.copy()
    count = None if routes.count is None else routes.count.copy()
    for block, drawn in enumerate(routes.tokens):
        sequence = _sequence_of(trace, drawn[::unit])
        places = DrawnSequences(sequence, labels[sequence], rank, server[rank], liking)
        order = (ARRANGEMENTS[kind.sequences](places)[:, None] * unit + np.arange(unit)).ravel()
        layers = slice(block * depth, (block + 1) * depth)
        ids[layers] = routes.ids[layers][:, order]
        tokens[block] = drawn[order]
        if count is not None:
            count[layers] = routes.count[layers][:, order]
    return replace(routes, ids=ids, tokens=tokens, count=count)


def _liking(site: Site, trace: RouterTrace, placement: Placement, servers: np.ndarray) -> np.ndarray:
    """Choices [sequence, server] that a server's experts take, by the earlier half of each sequence's tokens.

    servers: of one instance, as the cluster numbers them; each instance has the whole placement.
    """
    depth, experts = trace.layers, site.geometry.experts
    half = np.asarray(trace.offsets[:-1]) + (np.diff(trace.offsets) + 1) // 2
    earlier = np.arange(trace.tokens) < np.repeat(half, np.diff(trace.offsets))
    tokens = np.flatnonzero(earlier)
    seen = count_choices(choices(trace, tokens), experts, _sequence_of(trace, tokens), trace.sequences)
    own = np.searchsorted(servers, site.node)
    held = np.zeros((depth, experts, len(servers)))  # share of the replicas, by the trace's numbers
    slot_server = np.repeat(own, placement.slots_per_rank)
    for layer, names in enumerate(site.labels):
        share = np.zeros(held.shape[1:])
        expert = placement.expert[layer].ravel()
        np.add.at(share, (expert, slot_server), 1 / placement.replicas[layer][expert])
        held[layer % depth] += share[names]
    liking = np.einsum("qle,les->qs", seen.astype(float), held)
    return liking / np.maximum(liking.sum(axis=1, keepdims=True), 1e-300)


def _sequence_of(trace: RouterTrace, tokens: np.ndarray) -> np.ndarray:
    """Sequence of each token of a trace."""
    return np.searchsorted(trace.offsets, tokens, side="right") - 1
