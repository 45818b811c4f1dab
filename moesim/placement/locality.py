"""Placements that cut traffic: experts that tokens choose together move together, and traffic leaves scarce links.

Both policies start from `eplb`, in its hierarchical form where the kernel sends a token once to each server and ranks
get no hotter than `slack` allows. They keep its replicas, and swap copies between ranks while that lowers their cost
on a sample of the learned tokens. No rank gets hotter than the start's hottest one, or `slack` above the mean.

A token sends one copy to each *place* that holds one of its experts, at the level of the dispatch kernel: to each
expert slot, rank or server. Moving copy i to a place costs one message for each token of i with nothing else there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from moesim.placement.balance import eplb
from moesim.placement.evidence import Evidence
from moesim.placement.packing import check_room
from moesim.placement.placement import Placement
from moesim.placement.traffic import choose_slots

_TOKENS = 2048  # of the sample that are looked at: 64 choices of each of 256 experts, top-8
_ROUNDS = 24
_MOVERS = 64
_NEAR = 0.4  # of the best swap's gain: what swaps beside it must gain at least
_WORTH = 1e-3  # of the cost: a round that saves less is the last


def affinity(
    load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int, slack: float = 0.05
) -> Placement:
    """Experts chosen together share a server (on one server: a rank), so that a token visits few of them.

    A local search over swaps on the number of servers that the sample's tokens visit: the connectivity of a hypergraph
    whose edges are tokens, as graph partitioners minimise. slack: how much hotter than the mean a rank may become.
    Raises ValueError where only loads are known.
    """
    check_room(load.shape[1], ranks, slots_per_rank)
    known = _known("affinity", evidence, slack)
    alone = len(known.servers) < 2
    place = np.arange(ranks) if alone else np.unique(known.node, return_inverse=True)[1]

    def price(state: _State) -> tuple[np.ndarray, float]:
        messages = state.messages()
        return messages[:, place], float(np.count_nonzero(state.visits))

    return _search("affinity", load, known, place, price, slots_per_rank, slack)


def topology_aware(
    load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int, slack: float = 0.05
) -> Placement:
    """Traffic leaves the link that takes longest: swaps priced by the links that a copy's messages pass.

    Each round prices every link by how near it is to the busiest one, adds up the prices on the way from each source
    server to each rank, and swaps the copies that save most. Dead, slow and shared links count as the cluster's graph
    has them. slack: how much hotter than the mean a rank may become. Raises ValueError where links or choices are
    unknown.
    """
    check_room(load.shape[1], ranks, slots_per_rank)
    known = _known("topology_aware", evidence, slack)
    if known.toll is None:
        raise ValueError("topology_aware needs the links of the cluster")
    server = np.unique(known.node, return_inverse=True)[1]
    place = {"expert": None, "rank": np.arange(ranks), "node": server}[known.level]

    def price(state: _State) -> tuple[np.ndarray, float]:
        origin = state.origin(len(known.servers))  # [copy, server] share of a copy's tokens
        sent = np.zeros((ranks, len(known.servers)))
        np.add.at(sent, state.rank, origin * state.sent()[:, None])
        busy = sent.T.ravel() @ known.toll
        longest = busy.max(initial=0.0)
        scarce = (busy / longest) ** 8 if longest else np.zeros_like(busy)  # a soft maximum: the busiest links rule
        fare = (known.toll @ scarce).reshape(-1, ranks)  # [server, rank]
        return state.messages_to(place) * (origin @ fare), float(longest + 1e-3 * busy.mean())

    return _search("topology_aware", load, known, place, price, slots_per_rank, slack)


@dataclass(slots=True, eq=False)
class _State:
    """One layer while it is searched.

    rank: [copy] rank that holds it. expert: [copy]. load: [copy]. chosen: [copy, token] scipy CSR of ones: the sample's
    tokens that use each copy. place: [rank] where messages are joined, None if nowhere. source: [token] server or None.
    visits: [token, place] how many of a token's copies are at a place.
    """

    rank: np.ndarray
    expert: np.ndarray
    load: np.ndarray
    chosen: object
    place: np.ndarray | None
    source: np.ndarray | None
    visits: np.ndarray

    def count_visits(self) -> None:
        """Set `visits` after ranks have changed."""
        if self.place is not None:
            places = int(self.place.max()) + 1
            at = np.zeros((self.rank.size, places), dtype=np.float32)
            at[np.arange(self.rank.size), self.place[self.rank]] = 1
            self.visits = self.chosen.T @ at

    def messages(self) -> np.ndarray:
        """Messages [copy, place] that a copy costs at a place: its tokens that have nothing else there."""
        cost = self.chosen @ (self.visits == 0).astype(np.float32)
        here = self.place[self.rank]
        cost[np.arange(here.size), here] = np.take_along_axis(
            self.chosen @ (self.visits == 1).astype(np.float32), here[:, None], axis=1
        )[:, 0]
        return cost

    def messages_to(self, place: np.ndarray | None) -> np.ndarray:
        """Messages [copy, rank], or [copy, 1] where every choice is a message of its own."""
        if place is None:
            return np.asarray(self.chosen.sum(axis=1)).reshape(-1, 1)
        return self.messages()[:, place]

    def sent(self) -> np.ndarray:
        """Messages [copy] now, with those that several copies of one place cause shared between them."""
        if self.place is None:
            return np.asarray(self.chosen.sum(axis=1)).ravel()
        share = np.divide(1, self.visits, out=np.zeros_like(self.visits), where=self.visits > 0)
        return np.take_along_axis(self.chosen @ share, self.place[self.rank][:, None], axis=1)[:, 0]

    def origin(self, servers: int) -> np.ndarray:
        """Share [copy, server] of a copy's tokens that come from each server."""
        if self.source is None:
            return np.full((self.rank.size, servers), 1 / servers)
        at = np.zeros((self.source.size, servers), dtype=np.float32)
        at[np.arange(self.source.size), self.source] = 1
        counts = self.chosen @ at
        return (counts + 1 / servers) / (counts.sum(axis=1, keepdims=True) + 1)


Price = Callable[[_State], tuple[np.ndarray, float]]


def _known(name: str, evidence: Evidence | None, slack: float) -> Evidence:
    if slack < 0:
        raise ValueError(f"slack is {slack:g}; write how much hotter than the mean a rank may get, 0 or more")
    if evidence is None or evidence.sample is None:
        raise ValueError(f"{name} needs a trace of choices; from loads alone nobody knows what is chosen together")
    return evidence


def _search(
    name: str, load: np.ndarray, known: Evidence, place: np.ndarray | None, price: Price, slots_per_rank: int,
    slack: float,
) -> Placement:  # fmt: skip
    """Swap copies from the start of `eplb` while the price's total falls."""
    start = _start(load, known, slots_per_rank, slack)
    placed = np.empty_like(start.expert)
    for layer in range(len(load)):
        state = _state(start, layer, load[layer], known, place)
        _improve(state, price, slack, len(known.node))
        order = np.argsort(state.rank, kind="stable")
        placed[layer] = state.expert[order].reshape(placed.shape[1:])
    return Placement(name, placed, start.experts)


def _start(load: np.ndarray, known: Evidence, slots_per_rank: int, slack: float) -> Placement:
    """By layer the hierarchical form of `eplb` where it joins messages and keeps the slack, else the global one."""
    options = {"slots_per_rank": slots_per_rank}
    spread = eplb(load, len(known.node), known, **options, hierarchical=False)
    if known.level != "node":
        return spread
    nested = eplb(load, len(known.node), known, **options)
    by_rank = nested.rank_load(load)
    level = by_rank.max(axis=1) <= (1 + slack) * by_rank.mean(axis=1)
    return replace(spread, expert=np.where(level[:, None, None], nested.expert, spread.expert))


def _state(start: Placement, layer: int, load: np.ndarray, known: Evidence, place: np.ndarray | None) -> _State:
    from scipy.sparse import csr_array

    ids = known.sample(layer)
    picked = np.unique(np.linspace(0, len(ids) - 1, min(_TOKENS, len(ids))).astype(int))
    ids = ids[picked]
    valid = ids < start.experts
    slots = choose_slots(start, layer, np.where(valid, ids, 0))
    token = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    count = start.ranks * start.slots_per_rank
    entries = (np.ones(valid.sum(), dtype=np.float32), (slots[valid], token[valid]))
    expert = start.expert[layer].ravel()
    state = _State(
        rank=np.repeat(np.arange(start.ranks), start.slots_per_rank),
        expert=expert,
        load=(load / start.replicas[layer])[expert],
        chosen=csr_array(entries, shape=(count, len(ids))),
        place=place,
        source=None if known.source is None else known.source[picked],
        visits=np.zeros((0, 0), dtype=np.float32),
    )
    state.count_visits()
    return state


def _improve(state: _State, price: Price, slack: float, ranks: int) -> None:
    """Rounds of swaps, several at once between ranks that take part in one only; stop at a round that gains nothing."""
    rank_load = np.bincount(state.rank, weights=state.load, minlength=ranks)
    ceiling = max(rank_load.max(), (1 + slack) * rank_load.mean())
    cost, total = price(state)
    many = True
    for _ in range(_ROUNDS):
        swaps = _best_swaps(state, cost, rank_load, ceiling, ranks if many else 1)
        if not swaps:
            return
        before = state.rank.copy()
        for first, second in swaps:
            state.rank[[first, second]] = state.rank[[second, first]]
        state.count_visits()
        cost, now = price(state)
        if now < total:
            if total - now < _WORTH * total:
                return
            total = now
            rank_load = np.bincount(state.rank, weights=state.load, minlength=ranks)
            continue
        state.rank = before
        state.count_visits()
        if not many:
            return
        many = False  # swaps that each gain may not do so together: try the best alone
        cost, _ = price(state)


def _best_swaps(
    state: _State, cost: np.ndarray, rank_load: np.ndarray, ceiling: float, most: int
) -> list[tuple[int, int]]:
    """Up to `most` pairs of copies whose exchange saves most, no rank in two of them, within the ceiling.

    One of a pair is among the `_MOVERS` copies that would gain most by moving alone.
    """
    at, ranks = state.rank, rank_load.size
    cost = np.broadcast_to(cost, (at.size, ranks)).astype(np.float32)
    own = cost[np.arange(at.size), at]
    movers = np.argsort(cost.min(axis=1) - own, kind="stable")[:_MOVERS]
    gain = own[movers, None] - cost[movers][:, at] + own - cost[:, at[movers]].T  # [mover, copy]
    grows = state.load - state.load[movers, None]  # what the mover's rank gains
    room = (ceiling * (1 + 1e-9) - rank_load)[at]
    holds = np.zeros((int(state.expert.max()) + 1, ranks), dtype=bool)
    holds[state.expert, at] = True
    twin = holds[state.expert[movers]][:, at] | holds[state.expert][:, at[movers]].T
    allowed = (grows <= room[movers, None]) & (-grows <= room) & ~twin
    gain = np.where(allowed, gain, 0.0).ravel()
    best = float(gain.max())
    if best <= 1e-6 * max(float(own.sum()), 1e-300):
        return []
    candidates = np.flatnonzero(gain >= _NEAR * best)
    chosen, used = [], np.zeros(ranks, dtype=bool)
    for pair in candidates[np.argsort(-gain[candidates], kind="stable")]:
        mover, second = divmod(int(pair), at.size)
        first = int(movers[mover])
        if not (used[at[first]] or used[at[second]]):
            used[[at[first], at[second]]] = True
            chosen.append((first, second))
            if len(chosen) == most:
                break
    return chosen
