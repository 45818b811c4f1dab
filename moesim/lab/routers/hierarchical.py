"""Two-level routing: first groups of experts, then experts inside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.errors import InvalidInput, Problem
from moesim.lab.routers.losses import switch_loss
from moesim.lab.routers.routing import Routing, TokenContext


class HierarchicalRouter(nn.Module):
    """Gate of an expert = gate of its group x gate inside the group (Shazeer et al. 2017, appendix B, eq. 12).

    The `kept_groups` most probable of `groups` groups are taken, in each its k / kept_groups most probable experts;
    both levels renormalise their softmax over what they took. aux_weight: balance loss of both levels.
    """

    def __init__(
        self, hidden: int, experts: int, top_k: int, *, groups: int = 8, kept_groups: int = 2, aux_weight: float = 0.02
    ):
        super().__init__()
        if experts % groups or top_k % kept_groups or top_k // kept_groups > experts // groups:
            raise InvalidInput(
                Problem(
                    f"{experts} experts in {groups} groups cannot give {top_k} choices from {kept_groups} groups; "
                    "groups must divide the experts and kept_groups the choices",
                    "router.groups",
                )
            )
        self.experts, self.top_k, self.groups, self.kept_groups = experts, top_k, groups, kept_groups
        self.aux_weight = aux_weight
        self.weight = nn.Parameter(torch.empty(experts, hidden))
        self.group_weight = nn.Parameter(torch.empty(groups, hidden))

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        group_p = torch.softmax(x @ self.group_weight.T, dim=1)
        inner_p = torch.softmax((x @ self.weight.T).view(len(x), self.groups, -1), dim=2)
        outer, group = group_p.topk(self.kept_groups, dim=1)
        inner, place = inner_p.topk(self.top_k // self.kept_groups, dim=2)
        index = group.unsqueeze(2).expand(-1, -1, inner.shape[2])
        inner, place = inner.gather(1, index), place.gather(1, index)
        gates = (outer / outer.sum(1, keepdim=True)).unsqueeze(2) * inner / inner.sum(2, keepdim=True)
        ids = (group.unsqueeze(2) * (self.experts // self.groups) + place).flatten(1)
        loss = gates.new_zeros(())
        if self.training and self.aux_weight:
            joint = (group_p.unsqueeze(2) * inner_p).flatten(1)
            loss = self.aux_weight * (switch_loss(group_p, group) + switch_loss(joint, ids))
        return Routing(ids, gates.flatten(1), loss, None)
