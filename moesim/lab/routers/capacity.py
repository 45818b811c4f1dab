"""Expert capacity: how many rows an expert may take, and what becomes of the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from moesim.lab.routers.routing import Routing


def capacity(factor: float, tokens: int, top_k: int, experts: int) -> int:
    """Rows an expert may take: ⌈factor · k · tokens / experts⌉ (GShard, Lepikhin et al. 2020; Switch eq. 3)."""
    return math.ceil(factor * top_k * tokens / experts)


def scheduled_factor(progress: float, start: float, end: float) -> float:
    """A capacity factor that moves linearly from start to end. progress: 0 … 1 through training."""
    return start + (end - start) * progress


def adapted_factor(factor: float, dropped: float, *, target: float = 0.01, speed: float = 0.1) -> float:
    """The next step's factor, following the load: up when more than `target` of the choices were dropped, else down.

    Multiplicative, never below 1. dropped: share of choices dropped in this step.
    """
    return max(1.0, factor * (1 + speed if dropped > target else 1 - speed / 4))


def places(ids: Tensor, kept: Tensor, priority: Tensor, experts: int) -> Tensor:
    """[token, k]: place of each kept choice in its expert's queue, 0 = first.

    priority: [token, k], lower goes first; equal ones by token. Choices that are not kept are not in a queue.
    """
    flat, wanted = ids.flatten(), kept.flatten()
    order = torch.argsort(priority.flatten(), stable=True)
    order = order[wanted[order]]
    order = order[torch.argsort(flat[order], stable=True)]  # by expert, by priority inside
    load = torch.bincount(flat[order], minlength=experts)
    first = (load.cumsum(0) - load)[flat[order]]
    place = torch.zeros_like(flat)
    place[order] = torch.arange(len(order)) - first
    return place.view_as(ids)


def drop(routing: Routing, room: Tensor) -> Routing:
    """Serve first choices before second ones, early tokens before late ones; the rest drop to the residual stream.

    GShard (algorithm 1) and Switch. room: [expert] rows each may take.
    """
    rank = torch.arange(routing.ids.shape[1]).expand(routing.ids.shape)
    return _limited(routing, room, rank)


def drop_lowest(routing: Routing, room: Tensor) -> Routing:
    """Serve by gate weight: the lowest scores drop (batch prioritised routing, V-MoE, Riquelme et al. 2021, sec. 4)."""
    return _limited(routing, room, -routing.gates.detach())


def next_best(routing: Routing, room: Tensor) -> Routing:
    """An overflowing choice goes to the token's next-best expert with room, keeping its gate; without one it drops.

    Experts are tried in the order of the router's scores; early tokens choose first within each attempt.
    """
    if routing.scores is None:
        return drop(routing, room)
    experts = routing.scores.shape[1]
    routing = _limited(routing, room, torch.arange(routing.ids.shape[1]).expand(routing.ids.shape))
    ids, kept = routing.ids.clone(), routing.kept.clone()
    preference = routing.scores.detach().argsort(dim=1, descending=True)
    overflow = wanted(routing) & ~kept
    for attempt in range(experts):
        if not overflow.any():
            break
        left = room - routing.load(experts).long()
        candidate = preference[:, attempt]
        column = overflow.int().argmax(dim=1)  # one overflowing choice of a token at a time
        taken = ((ids == candidate[:, None]) & kept).any(dim=1)
        tries = overflow.any(dim=1) & ~taken & (left[candidate] > 0)
        place = places(candidate[:, None], tries[:, None], torch.zeros(len(ids), 1), experts)[:, 0]
        moved = (tries & (place < left[candidate])).nonzero().squeeze(1)
        ids[moved, column[moved]] = candidate[moved]
        kept[moved, column[moved]] = True
        overflow[moved, column[moved]] = False
        routing = dataclasses.replace(routing, ids=ids, kept=kept)
    return routing


def catch_all(routing: Routing, room: Tensor) -> Routing:
    """Overflow goes to the last expert, which takes everything; a token that already has it drops the choice."""
    last = len(room) - 1
    room = room.clone()
    room[last] = routing.ids.numel()
    limited = drop(routing, room)
    overflow = wanted(limited) & ~limited.kept
    has_it = ((limited.ids == last) & limited.kept).any(dim=1)
    first = overflow & (overflow.cumsum(dim=1) == 1) & ~has_it[:, None]
    ids = torch.where(first, last, limited.ids)
    return dataclasses.replace(limited, ids=ids, kept=limited.kept | first)


OVERFLOW_POLICIES: dict[str, Callable[[Routing, Tensor], Routing]] = {
    "drop": drop,
    "drop_lowest": drop_lowest,
    "next_best": next_best,
    "catch_all": catch_all,
    "queue": drop,  # what is dropped waits and takes room in the next step, see `CapacityLimit`
}


def wanted(routing: Routing) -> Tensor:
    """[token, k] bool: choices the router made, served or not."""
    return torch.ones_like(routing.ids, dtype=torch.bool) if routing.chosen is None else routing.chosen


def _limited(routing: Routing, room: Tensor, priority: Tensor) -> Routing:
    """Keep the choices whose place in their expert's queue is below its room."""
    chosen = wanted(routing) if routing.kept is None else routing.kept
    place = places(routing.ids, chosen, priority, len(room))
    return dataclasses.replace(routing, kept=chosen & (place < room[routing.ids]), chosen=chosen)


class CapacityLimit(torch.nn.Module):
    """Applies a capacity to each step's routing.

    policy: a key of `OVERFLOW_POLICIES`. factor: capacity factor. end_factor: what it moves to linearly by the end of
    training (a schedule). target: drop share that the factor follows instead (adaptive). Under ``queue``, dropped rows
    of a step are worked off before the next step's: they take room there (`waiting` [expert]), and the token itself
    goes on by its residual.
    """

    def __init__(
        self,
        experts: int,
        *,
        policy: str = "drop",
        factor: float = 1.25,
        end_factor: float | None = None,
        target: float | None = None,
    ):
        super().__init__()
        if policy not in OVERFLOW_POLICIES:
            from moesim.errors import InvalidInput, Problem

            known = ", ".join(OVERFLOW_POLICIES)
            raise InvalidInput(Problem(f"no overflow policy {policy!r}; write one of {known}", "capacity.policy"))
        self.experts, self.policy, self.end_factor, self.target = experts, policy, end_factor, target
        self.start_factor = factor
        self.register_buffer("factor", torch.tensor(float(factor)))
        self.register_buffer("waiting", torch.zeros(experts, dtype=torch.long))

    def forward(self, routing: Routing) -> Routing:
        """The routing that the experts have room for."""
        tokens, k = routing.ids.shape
        full = capacity(self.factor.item(), tokens, k, self.experts)
        room = torch.full((self.experts,), full)
        if self.policy != "queue":
            return OVERFLOW_POLICIES[self.policy](routing, room)
        served = drop(routing, (room - self.waiting).clamp_min(0))
        overflow = torch.bincount(served.ids[wanted(served) & ~served.kept], minlength=self.experts)
        self.waiting = (self.waiting - room).clamp_min(0) + overflow
        return served

    @torch.no_grad()
    def after_step(self, routing: Routing, progress: float) -> None:
        """Move the factor along its schedule, or after the load."""
        if self.end_factor is not None:
            self.factor.fill_(scheduled_factor(progress, self.start_factor, self.end_factor))
        elif self.target is not None:
            self.factor.fill_(adapted_factor(self.factor.item(), routing.dropped, target=self.target))
