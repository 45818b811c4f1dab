"""The value every router hands to the experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """What a router decided for T tokens.

    ids: [token, k] int64, k different experts a row. gates: [token, k] weight of each expert's output (differentiable).
    loss: scalar that the router adds to the training loss. kept: [token, k] bool, False where a choice is not computed
    (dropped, or padding where tokens have different numbers of experts); None = all are.
    """

    ids: Tensor
    gates: Tensor
    loss: Tensor
    kept: Tensor | None = None

    def load(self, experts: int) -> Tensor:
        """[expert] float: rows each expert computes."""
        chosen = self.ids.flatten() if self.kept is None else self.ids[self.kept]
        return torch.bincount(chosen, minlength=experts).float()


@dataclass(frozen=True, slots=True)
class TokenContext:
    """What a router may know of its tokens besides their hidden states.

    tokens: [sequence, position] token ids (the hidden states arrive flattened in this order). generator: source of the
    randomness of noisy routers, None = none is drawn (evaluation).
    """

    tokens: Tensor
    generator: torch.Generator | None = None
