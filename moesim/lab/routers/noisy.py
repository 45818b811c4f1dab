"""Noisy top-k: the choice is drawn, so that experts near the threshold get their turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesim.lab.routers.losses import importance_loss, squared_coefficient_of_variation
from moesim.lab.routers.routing import Routing, TokenContext


class NoisyTopKRouter(nn.Module):
    """H = W x + noise · softplus(W_noise x); gates = softmax of the k largest H (Shazeer et al. 2017, eqs. 3-5).

    Softplus is raised by .01, so that noise never vanishes. Losses: importance (eqs. 6-7) and load (appendix A).
    gumbel: the noise is standard Gumbel without learned scale, so that the choice is a sample without replacement from
    softmax(W x) (Gumbel top-k, Kool et al. 2019). Noise is drawn in training only.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        importance_weight: float = 0.1,
        load_weight: float = 0.1,
        gumbel: bool = False,
    ):
        super().__init__()
        self.experts, self.top_k, self.gumbel = experts, top_k, gumbel
        self.importance_weight, self.load_weight = importance_weight, load_weight
        self.weight = nn.Parameter(torch.empty(experts, hidden))
        self.noise_weight = None if gumbel else nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        clean = x @ self.weight.T
        noisy, scale = clean, None
        if self.training and self.gumbel:
            noisy = clean - torch.empty_like(clean).exponential_(generator=context.generator).log()
        elif self.training:
            scale = F.softplus(x @ self.noise_weight.T) + 1e-2
            noisy = clean + scale * torch.empty_like(clean).normal_(generator=context.generator)
        top, ids = noisy.topk(self.top_k, dim=1)
        gates = torch.softmax(top, dim=1)
        loss = clean.new_zeros(())
        if self.training:
            loss = self.importance_weight * importance_loss(torch.zeros_like(clean).scatter(1, ids, gates))
            if scale is not None:
                load = load_estimate(clean, noisy, scale, self.top_k)
                loss = loss + self.load_weight * squared_coefficient_of_variation(load)
        return Routing(ids, gates, loss, None, noisy)


def load_estimate(clean: Tensor, noisy: Tensor, scale: Tensor, top_k: int) -> Tensor:
    """[expert] smooth load: Σ_tokens Φ((W x − k-th largest of the others' H) / scale) (Shazeer et al. 2017, eqs. 8-10).

    The probability that an expert would be chosen if its own noise were drawn anew. All arguments [token, expert].
    """
    best = noisy.topk(top_k + 1, dim=1).values
    chosen = noisy >= best[:, top_k - 1 : top_k]
    threshold = torch.where(chosen, best[:, top_k:], best[:, top_k - 1 : top_k])
    return torch.special.ndtr((clean - threshold) / scale).sum(0)
