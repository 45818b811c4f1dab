"""Softmax gates: each token takes the k experts it likes best (Mixtral, Switch, GShard)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.lab.routers.losses import sequence_loss, switch_loss, z_loss
from moesim.lab.routers.options import TopologyCost, keep_confident, within_groups
from moesim.lab.routers.routing import Routing, TokenContext


class SoftmaxRouter(nn.Module):
    """p = softmax(W x); the k most probable experts, gated by p renormalised over them (Mixtral, Jiang et al. 2024).

    renormalise: False keeps p itself as the gate (Switch, OLMoE). aux_weight, sequence_weight, z_weight: weights of the
    batch-wise balance loss, the sequence-wise one and the router z-loss. groups, kept_groups: the choice is limited to
    the groups with the best experts (DeepSeek-V2); 1, 1 = no limit. topology: a penalty on far experts, in the choice
    alone. keep: a threshold that lets easy tokens do with fewer experts (see `keep_confident`).
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
        groups: int = 1,
        kept_groups: int = 1,
        topology: TopologyCost | None = None,
        keep: float | None = None,
    ):
        super().__init__()
        self.experts, self.top_k, self.renormalise = experts, top_k, renormalise
        self.aux_weight, self.sequence_weight, self.z_weight = aux_weight, sequence_weight, z_weight
        self.groups, self.kept_groups, self.topology, self.keep = groups, kept_groups, topology, keep
        self.weight = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        logits = x @ self.weight.T
        probabilities = torch.softmax(logits, dim=1)
        wanted = logits if self.topology is None else logits - self.topology.penalty(context)
        ids = within_groups(wanted, self.groups, self.kept_groups, best=1).topk(self.top_k, dim=1).indices
        gates = probabilities.gather(1, ids)
        kept = None if self.keep is None else keep_confident(gates, self.keep)
        if kept is not None:
            gates = gates * kept
        if self.renormalise:
            gates = gates / gates.sum(1, keepdim=True)
        loss = self.balance_loss(logits, probabilities, ids, context) if self.training else logits.new_zeros(())
        return Routing(ids, gates, loss, kept, wanted)

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


def switch_router(hidden: int, experts: int, top_k: int = 1, *, aux_weight: float = 0.01, **options) -> SoftmaxRouter:
    """Switch Transformer: one expert a token, gated by its probability (Fedus et al. 2021, eqs. 1-6, α = .01).

    top_k is ignored: it is 1 by definition.
    """
    return SoftmaxRouter(hidden, experts, 1, renormalise=False, aux_weight=aux_weight, **options)


class GShardRouter(nn.Module):
    """Top-2 with a second expert that is used at random (GShard, Lepikhin et al. 2020, algorithm 1).

    Gates p1, p2 of the two most probable experts are divided by p1 + p2. In training the second is used with
    probability min(1, 2 p2) of the divided gate; outside it always is. The balance loss counts first choices only, and
    is scaled as Switch's (1 when balanced).
    top_k is ignored: it is 2 by definition.
    """

    def __init__(self, hidden: int, experts: int, top_k: int = 2, *, aux_weight: float = 0.02):
        super().__init__()
        self.experts, self.top_k, self.aux_weight = experts, 2, aux_weight
        self.weight = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        logits = x @ self.weight.T
        probabilities = torch.softmax(logits, dim=1)
        gates, ids = probabilities.topk(2, dim=1)
        gates = gates / gates.sum(1, keepdim=True)
        if not self.training:
            return Routing(ids, gates, logits.new_zeros(()), None, logits)
        drawn = torch.rand(len(x), generator=context.generator)
        kept = torch.stack((torch.ones(len(x), dtype=torch.bool), 2 * gates[:, 1].detach() > drawn), dim=1)
        return Routing(ids, gates, self.aux_weight * switch_loss(probabilities, ids[:, :1]), kept, logits)
