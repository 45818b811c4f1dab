"""Chain-of-Experts: a layer's experts are passed through several times, each time routed anew."""

from __future__ import annotations

from torch import nn

from moesim.errors import InvalidInput, Problem
from moesim.lab.routers.topk import SoftmaxRouter


class ChainRouter(nn.Module):
    """x_t = x_{t-1} + Σ gate · expert(x_{t-1}), t = 1 … passes, with a router of its own for each pass and one set of
    experts (Chain-of-Experts, Wang et al. 2025).

    Each pass takes k / passes experts, so a layer does the work of k in all. `MoELayer` walks the passes; each is
    recorded as a layer of the trace, because each dispatches and combines anew.
    """

    def __init__(self, hidden: int, experts: int, top_k: int, *, passes: int = 2, **options):
        super().__init__()
        if top_k % passes:
            raise InvalidInput(Problem(f"{passes} passes do not divide top_k = {top_k}", "router.passes"))
        self.passes = nn.ModuleList(SoftmaxRouter(hidden, experts, top_k // passes, **options) for _ in range(passes))
