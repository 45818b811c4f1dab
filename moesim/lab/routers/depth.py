"""Mixture-of-Depths: some tokens skip the experts of a layer."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesim.lab.routers.routing import Routing, TokenContext
from moesim.lab.routers.topk import SoftmaxRouter


class MixtureOfDepthsRouter(nn.Module):
    """A scalar r = w·x ranks the tokens of a sequence; the best `share` of them are routed, the others skip.

    Mixture-of-Depths (Raposo et al. 2024, eq. 1) in front of softmax top-k: their "staged" MoDE, applied to the routed
    feed-forward part (the paper also skips attention). Gates are multiplied by sigmoid(r), so that r learns; the paper
    multiplies by r itself. Ranking a whole sequence sees the future, so outside training a token is routed when
    sigmoid(r) > 1/2, which a cross-entropy on the ranking teaches (their sec. 3.5); it has weight `predict_weight`.
    """

    def __init__(
        self, hidden: int, experts: int, top_k: int, *, share: float = 0.5, predict_weight: float = 0.01, **options
    ):
        super().__init__()
        self.experts, self.top_k, self.share, self.predict_weight = experts, top_k, share, predict_weight
        self.inner = SoftmaxRouter(hidden, experts, top_k, **options)
        self.depth_weight = nn.Parameter(torch.empty(1, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]; tokens that skip have no kept choice."""
        routing = self.inner(x, context)
        rank = (x @ self.depth_weight.T).squeeze(1)
        loss = routing.loss
        if self.training:
            routed = best_of_sequences(rank.detach(), context.tokens.shape, self.share)
            loss = loss + self.predict_weight * F.binary_cross_entropy_with_logits(rank, routed.float())
        else:
            routed = rank > 0
        kept = routed.unsqueeze(1).expand(routing.ids.shape)
        if routing.kept is not None:
            kept = kept & routing.kept
        gates = routing.gates * torch.sigmoid(rank).unsqueeze(1)
        return dataclasses.replace(routing, gates=gates, loss=loss, kept=kept)


def best_of_sequences(rank: Tensor, shape: tuple[int, int], share: float) -> Tensor:
    """[token] bool: the ⌊share · positions⌋ highest ranks of each sequence; shape = (sequences, positions)."""
    rows = rank.view(shape)
    best = rows.topk(int(share * shape[1]), dim=1).indices
    return torch.zeros(shape, dtype=torch.bool).scatter_(1, best, True).flatten()
