"""Soft MoE: experts process weighted means of tokens, so nothing is chosen and nothing dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moesim.errors import InvalidInput, Problem
from moesim.lab.routers.routing import Routing, TokenContext


@dataclass(frozen=True, slots=True)
class SlotRouting:
    """What Soft MoE hands to the experts. Pools are the tokens that are mixed with each other.

    dispatch: [pool, token, slot], sums to 1 over tokens. combine: [pool, token, slot], sums to 1 over slots.
    Slot s belongs to expert s // slots_per_expert. loss: scalar, 0. transposed: pools are positions (else sequences).
    """

    dispatch: Tensor
    combine: Tensor
    slots_per_expert: int
    loss: Tensor
    transposed: bool

    def rows(self, experts: int) -> Routing:
        """The same work as rows of tokens, for a trace: every slot is one row that its expert computes.

        Slots have no token of their own; they are dealt to the tokens of their pool, so that each expert gets exactly
        its slots and each token slots / tokens of them, of different experts. Gates are the token's largest weights.
        """
        pools, tokens, slots = self.dispatch.shape
        ids = (torch.arange(slots) % experts).view(tokens, -1).expand(pools, -1, -1)
        gates = self.combine.detach().topk(ids.shape[2], dim=2).values
        if self.transposed:
            ids, gates = ids.transpose(0, 1), gates.transpose(0, 1)
        return Routing(ids.reshape(pools * tokens, -1), gates.reshape(pools * tokens, -1), self.loss)


class SoftMoERouter(nn.Module):
    """Slots are softmax-weighted means of tokens, outputs softmax-weighted means of slots (Soft MoE, Puigcerver 2023).

    logits = normalise(x) · scale · normalise(Φ), Φ [hidden, slot] (algorithm 1, with the normalisation of sec. 2.3).
    The number of slots is top_k · tokens / experts each, so a layer does the work of top_k experts a token. Mixing a
    sequence would let every token see its future; `causal` mixes the tokens that stand at one position of the batch's
    sequences instead (Mixture of Tokens, Antoniak et al. 2023). causal = False mixes each sequence, as the paper does
    for images; a language-model loss is then not comparable. `sequences`, `positions`: the batch shape that fixes the
    slots.
    """

    def __init__(
        self, hidden: int, experts: int, top_k: int, *, sequences: int = 8, positions: int = 256, causal: bool = True
    ):
        super().__init__()
        pool = sequences if causal else positions
        if top_k * pool % experts:
            raise InvalidInput(
                Problem(
                    f"{top_k} x {pool} tokens of a pool do not fill {experts} experts evenly; "
                    f"choose a batch in which they do",
                    "router.sequences" if causal else "router.positions",
                )
            )
        self.experts, self.top_k, self.causal = experts, top_k, causal
        self.slots_per_expert = top_k * pool // experts
        self.weight = nn.Parameter(torch.empty(experts * self.slots_per_expert, hidden))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, context: TokenContext) -> SlotRouting:
        """Weights of x [token, hidden]."""
        rows = x.view(*context.tokens.shape, -1)
        pools = rows.transpose(0, 1) if self.causal else rows
        logits = nn.functional.normalize(pools, dim=-1) @ (self.scale * nn.functional.normalize(self.weight, dim=1)).T
        return SlotRouting(
            torch.softmax(logits, dim=1),
            torch.softmax(logits, dim=2),
            self.slots_per_expert,
            x.new_zeros(()),
            self.causal,
        )
