"""What a top-k router can be given besides: groups, a taste for near experts, a number of experts that varies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moesim.lab.routers.routing import TokenContext


@dataclass(frozen=True, slots=True)
class TopologyCost:
    """A penalty on the choice of far experts, after the topology-aware gating of TA-MoE (Chen et al. 2022).

    Experts lie contiguously on `ranks` ranks, `ranks_per_node` to a node; sequence i of a batch lives on rank
    i mod ranks. Choosing an expert on the same node but another rank costs `node` logits, on another node `cluster`.
    """

    experts: int
    ranks: int
    ranks_per_node: int
    node: float
    cluster: float

    def penalty(self, context: TokenContext) -> Tensor:
        """[token, expert] in logits."""
        sequences, positions = context.tokens.shape
        home = torch.arange(sequences) % self.ranks
        return self.matrix()[home].repeat_interleave(positions, dim=0)

    def matrix(self) -> Tensor:
        """[rank, expert] penalty."""
        rank = torch.arange(self.ranks)
        of_expert = torch.arange(self.experts) * self.ranks // self.experts
        near = rank[:, None] // self.ranks_per_node == of_expert // self.ranks_per_node
        costs = torch.where(near, self.node, self.cluster)
        return torch.where(rank[:, None] == of_expert, 0.0, costs)


def within_groups(scores: Tensor, groups: int, kept_groups: int, best: int) -> Tensor:
    """Scores [token, expert] with -inf outside each token's kept groups: those whose `best` highest scores sum highest.

    Node-limited routing: best = 1 in DeepSeek-V2 (report, sec. 2.2.2), 2 in DeepSeek-V3's released code.
    """
    if groups == 1:
        return scores
    by_group = scores.view(len(scores), groups, -1)
    kept = by_group.topk(best, dim=2).values.sum(2).topk(kept_groups, dim=1, sorted=False).indices
    out = torch.ones(len(scores), groups, dtype=torch.bool).scatter_(1, kept, False)
    return by_group.masked_fill(out.unsqueeze(2), -torch.inf).flatten(1)


def keep_confident(probabilities: Tensor, threshold: float) -> Tensor:
    """[token, k] bool: experts a token needs until their probabilities sum to `threshold`, at least one.

    probabilities: [token, k], best first. Dynamic routing of Huang et al. (2024), "Harder tasks need more experts",
    with k as the most.
    """
    reached = probabilities.detach().cumsum(dim=1) - probabilities.detach()
    return reached < threshold
