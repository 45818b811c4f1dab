"""Servers behind a balancer: one or many, or pools for prefill and decode with a transfer of KV between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moesim.serving.policy import Policy
from moesim.serving.rank import partial_page
from moesim.serving.requests import Requests
from moesim.serving.roster import Elastic, Outage
from moesim.serving.steps import StepCost


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal servers. capacity: tokens of KV cache on one attention-DP rank. ranks: attention-DP ranks of a server.

    context: longest sequence of the model. swap_s_per_token: seconds to move the cache of a token to the host or back.
    """

    policy: Policy
    cost: StepCost
    capacity: float
    ranks: int = 1
    servers: int = 1
    context: float = math.inf
    swap_s_per_token: float = 0.0

    def can_hold(self, requests: Requests) -> np.ndarray:
        """[request] whether an empty server could run it to its end, and take its prompt in one of its steps."""
        longest = min(self.context, self.capacity - partial_page(self.policy))
        whole = self.policy.chunked | (requests.input_len <= self.policy.token_budget)
        return whole & (requests.input_len + requests.output_len <= longest)


@dataclass(frozen=True, slots=True)
class Frontend:
    """What stands between clients and servers. fixed_s: of the way there and back together. request_s: of one request
    in the serial part (tokenising, HTTP)."""

    fixed_s: float = 0.0
    request_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """All servers. prefill: the pool that computes prompts, None where every server of `pool` does both.

    transfer_s: seconds to hand over the cache of so many tokens; a prefill server sends one request at a time.
    balancer: a key of `moesim.serving.balancers.BALANCERS`. frontend: before everything. outages: of servers of `pool`.
    elastic: how many of `pool`'s servers are up; None for all.
    """

    pool: Pool
    prefill: Pool | None = None
    transfer_s: Callable[[int], float] = lambda tokens: 0.0
    balancer: str = "least_loaded"
    frontend: Frontend = field(default_factory=Frontend)
    outages: tuple[Outage, ...] = ()
    elastic: Elastic | None = None
