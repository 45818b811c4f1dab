"""The value every router hands to the experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """What a router decided for T tokens.

    ids: [token, k] int64, different experts in a row. gates: [token, k] weight of each expert's output
    (differentiable). loss: scalar that the router adds to the training loss. kept: [token, k] bool, False where a
    choice is not computed (dropped, or padding where tokens have different numbers of experts); None = all are.
    scores: [token, expert] what the choice was made by, where there is such a thing. chosen: [token, k] bool, choices
    made before a capacity dropped some of them; None = no capacity was applied.
    """

    ids: Tensor
    gates: Tensor
    loss: Tensor
    kept: Tensor | None = None
    scores: Tensor | None = None
    chosen: Tensor | None = None

    def load(self, experts: int) -> Tensor:
        """[expert] float: rows each expert computes."""
        rows = self.ids.flatten() if self.kept is None else self.ids[self.kept]
        return torch.bincount(rows, minlength=experts).float()

    @property
    def dropped(self) -> float:
        """Share of the choices that a capacity dropped."""
        if self.chosen is None:
            return 0.0
        return 1 - (self.kept.sum() / self.chosen.sum().clamp_min(1)).item()


@dataclass(frozen=True, slots=True)
class TokenContext:
    """What a router may know of its tokens besides their hidden states.

    tokens: [sequence, position] token ids (the hidden states arrive flattened in this order). generator: source of the
    randomness of routers that draw; None = torch's global one.
    """

    tokens: Tensor
    generator: torch.Generator | None = None
