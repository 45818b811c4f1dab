"""Experts as clusters of hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesim.lab.routers.routing import Routing, TokenContext


class KMeansRouter(nn.Module):
    """A token goes to its k nearest centroids by cosine; gates are softmax(cosine / temperature) over them.

    Centroids follow the tokens assigned to them, μ ← normalise(λ μ + (1 − λ) mean of its unit tokens), the online
    spherical k-means of the Routing Transformer (Roy et al. 2021); gates as in cluster-routed expert models (c-BTM,
    Gururangan et al. 2023). Clusters are kept of like size by a bias on the choice (± speed a step), where c-BTM solves
    a balanced assignment.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        decay: float = 0.99,
        temperature: float = 0.1,
        speed: float = 0.005,
    ):
        super().__init__()
        self.experts, self.top_k = experts, top_k
        self.decay, self.temperature, self.speed = decay, temperature, speed
        start = torch.randn(experts, hidden, generator=torch.Generator().manual_seed(0))
        self.register_buffer("centroids", F.normalize(start, dim=1))
        self.register_buffer("bias", torch.zeros(experts))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]; in training the centroids move."""
        unit = F.normalize(x, dim=1)
        cosine = unit @ self.centroids.T
        ids = (cosine.detach() + self.bias).topk(self.top_k, dim=1).indices
        gates = torch.softmax(cosine.gather(1, ids) / self.temperature, dim=1)
        if self.training:
            self.follow(unit.detach(), ids)
        return Routing(ids, gates, x.new_zeros(()), None, cosine.detach() + self.bias)

    @torch.no_grad()
    def follow(self, unit: Tensor, ids: Tensor) -> None:
        """Move the centroids towards their tokens; those without tokens stay."""
        rows = unit.repeat_interleave(self.top_k, dim=0)
        sums = torch.zeros_like(self.centroids).index_add_(0, ids.flatten(), rows)
        count = torch.bincount(ids.flatten(), minlength=self.experts)[:, None]
        moved = self.decay * self.centroids + (1 - self.decay) * sums / count.clamp_min(1)
        # Not in place: the graph of this step still needs the old centroids.
        self.centroids = torch.where(count > 0, F.normalize(moved, dim=1), self.centroids)

    @torch.no_grad()
    def after_step(self, routing: Routing, progress: float) -> None:
        """Make large clusters less and small ones more attractive."""
        load = routing.load(self.experts)
        self.bias += self.speed * torch.sign(load.mean() - load)
