"""What any top-k router can be given besides: a taste for near experts, and a number of experts that varies."""

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


def keep_confident(probabilities: Tensor, threshold: float) -> Tensor:
    """[token, k] bool: experts a token needs until their probabilities sum to `threshold`, at least one.

    probabilities: [token, k], best first. Dynamic routing of Huang et al. (2024), "Harder tasks need more experts",
    eq. 6, with k as the most.
    """
    reached = probabilities.detach().cumsum(dim=1) - probabilities.detach()
    return reached < threshold
