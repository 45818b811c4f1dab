"""Sigmoid gates balanced by a bias on the choice (DeepSeek-V3), with or without group-limited choice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.lab.routers.losses import sequence_loss
from moesim.lab.routers.options import within_groups
from moesim.lab.routers.routing import Routing, TokenContext


class SigmoidRouter(nn.Module):
    """s = sigmoid(W x); chosen by s + b, weighed by s; b moves by ±u after each step (DeepSeek-V3 report, eqs. 12-16).

    experts, top_k: N and k. groups, kept_groups: the choice is limited to the `kept_groups` groups whose two best
    s + b sum highest (DeepSeek-V3's released code: node-limited routing); 1, 1 = no limit. Gates are s of the chosen,
    normalised to sum to `scale` (V3: 2.5); renormalise = False keeps s itself (Llama 4, which takes one expert).
    sequence_weight: weight of the sequence-wise balance loss.
    speed: bias speed u at the start and at the end of training, linear in between. DeepSeek's .001 over 14.8 T tokens
    collapses runs of a few hundred steps, in which the bias has to travel .1 to .15; hence the fast start.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        groups: int = 1,
        kept_groups: int = 1,
        scale: float = 1.0,
        renormalise: bool = True,
        sequence_weight: float = 0.0,
        speed: tuple[float, float] = (0.01, 0.001),
    ):
        super().__init__()
        self.experts, self.top_k, self.groups, self.kept_groups = experts, top_k, groups, kept_groups
        self.scale, self.renormalise = scale, renormalise
        self.sequence_weight, self.speed = sequence_weight, speed
        self.weight = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("bias", torch.zeros(experts))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        scores = torch.sigmoid(x @ self.weight.T)
        ids = self.choose(scores.detach())
        gates = scores.gather(1, ids)
        if self.renormalise:
            gates = gates / gates.sum(1, keepdim=True)
        loss = scores.new_zeros(())
        if self.sequence_weight and self.training:
            shares = scores / scores.sum(1, keepdim=True)
            loss = self.sequence_weight * sequence_loss(shares, ids, context.tokens.shape[0])
        return Routing(ids, self.scale * gates, loss, None, scores.detach() + self.bias)

    def choose(self, scores: Tensor) -> Tensor:
        """ids [token, k] of the highest biased scores, within the kept groups."""
        biased = within_groups(scores + self.bias, self.groups, self.kept_groups, best=2)
        return biased.topk(self.top_k, dim=1).indices

    @torch.no_grad()
    def after_step(self, routing: Routing, progress: float) -> None:
        """Raise the bias of underloaded experts and lower that of overloaded ones. progress: 0 … 1 through training."""
        load = routing.load(self.experts)
        start, end = self.speed
        self.bias += (start + (end - start) * progress) * torch.sign(load.mean() - load)
