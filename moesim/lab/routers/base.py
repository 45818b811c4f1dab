"""BASE: tokens and experts matched so that every expert gets the same number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from moesim.errors import InvalidInput, Problem
from moesim.lab.routers.routing import Routing, TokenContext


class BaseRouter(nn.Module):
    """Affinity x·w_e; in training a balanced assignment of highest total affinity, outside it the best experts.

    BASE layers (Lewis et al. 2021): gate sigmoid(x·w_e), no auxiliary loss. method: ``exact`` solves the linear
    assignment problem (the paper's auction algorithm approximates it), for batches up to some 1,000 tokens;
    ``sinkhorn`` takes the best experts of an entropy-regularised plan (S-BASE, Clark et al. 2022), nearly balanced and
    fast. top_k > 1 assigns k times, never the same expert twice. Tokens are matched within the whole batch, so the
    training loss sees a little of the future; evaluation does not.
    """

    def __init__(self, hidden: int, experts: int, top_k: int, *, method: str = "sinkhorn"):
        super().__init__()
        if method not in ("exact", "sinkhorn"):
            raise InvalidInput(Problem(f"no assignment method {method!r}; write exact or sinkhorn", "router.method"))
        self.experts, self.top_k, self.method = experts, top_k, method
        self.weight = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        affinity = x @ self.weight.T
        if not self.training:
            ids = affinity.topk(self.top_k, dim=1).indices
        elif self.method == "exact":
            ids = balanced_assignment(affinity.detach(), self.top_k)
        else:
            ids = sinkhorn(affinity.detach()).topk(self.top_k, dim=1).indices
        gates = torch.sigmoid(affinity.gather(1, ids)) / self.top_k
        return Routing(ids, gates, affinity.new_zeros(()), None, affinity)


def balanced_assignment(affinity: Tensor, top_k: int) -> Tensor:
    """ids [token, k]: k rounds of the assignment of highest total affinity in which experts get ⌈T / N⌉ tokens or less.

    affinity: [token, expert]. Pairs of earlier rounds are not given again.
    """
    from scipy.optimize import linear_sum_assignment

    left = affinity.numpy().astype(np.float64)
    tokens, experts = left.shape
    seats = -(-tokens // experts)
    forbidden = left.min() - 1e3 * (np.ptp(left) + 1)
    rounds = []
    for _ in range(top_k):
        _, seat = linear_sum_assignment(np.repeat(left, seats, axis=1), maximize=True)
        rounds.append(seat // seats)
        left[np.arange(tokens), rounds[-1]] = forbidden
    return torch.from_numpy(np.stack(rounds, axis=1))


def sinkhorn(affinity: Tensor, temperature: float = 0.2, rounds: int = 20) -> Tensor:
    """Transport plan [token, expert] whose rows sum to 1 and columns to T / N (Sinkhorn-Knopp on exp(affinity / τ)).

    Affinities are measured in their own standard deviation.
    """
    logits = affinity / (temperature * affinity.std().clamp_min(1e-6))
    tokens, experts = affinity.shape
    for _ in range(rounds):
        logits = logits - logits.logsumexp(dim=0, keepdim=True) + float(np.log(tokens / experts))
        logits = logits - logits.logsumexp(dim=1, keepdim=True)
    return logits.exp()
