"""Softmax gates: each token takes the k experts it likes best."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.lab.routers.losses import sequence_loss, switch_loss, z_loss
from moesim.lab.routers.routing import Routing, TokenContext


class SoftmaxRouter(nn.Module):
    """p = softmax(W x); the k most probable experts, gated by p renormalised over them (Mixtral, Jiang et al. 2024).

    renormalise: False keeps p itself as the gate (Switch, OLMoE). aux_weight, sequence_weight, z_weight: weights of the
    batch-wise balance loss, the sequence-wise one and the router z-loss.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        renormalise: bool = True,
        aux_weight: float = 0.02,
        sequence_weight: float = 0.0,
        z_weight: float = 0.0,
    ):
        super().__init__()
        self.experts, self.top_k, self.renormalise = experts, top_k, renormalise
        self.aux_weight, self.sequence_weight, self.z_weight = aux_weight, sequence_weight, z_weight
        self.weight = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        logits = x @ self.weight.T
        probabilities = torch.softmax(logits, dim=1)
        gates, ids = probabilities.topk(self.top_k, dim=1)
        if self.renormalise:
            gates = gates / gates.sum(1, keepdim=True)
        loss = self.balance_loss(logits, probabilities, ids, context) if self.training else logits.new_zeros(())
        return Routing(ids, gates, loss)

    def balance_loss(self, logits: Tensor, probabilities: Tensor, ids: Tensor, context: TokenContext) -> Tensor:
        """Weighted sum of the losses that are switched on."""
        loss = logits.new_zeros(())
        if self.aux_weight:
            loss = loss + self.aux_weight * switch_loss(probabilities, ids)
        if self.sequence_weight:
            loss = loss + self.sequence_weight * sequence_loss(probabilities, ids, context.tokens.shape[0])
        if self.z_weight:
            loss = loss + self.z_weight * z_loss(logits)
        return loss
