"""Routers as PyTorch modules, by name. Each takes hidden states [token, hidden] and hands back a `Routing`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from moesim.lab.routers.routing import Routing, TokenContext
from moesim.lab.routers.sigmoid import SigmoidRouter
from moesim.lab.routers.topk import SoftmaxRouter

ROUTERS: dict[str, Callable[..., nn.Module]] = {
    "topk_softmax": SoftmaxRouter,
    "sigmoid_bias": SigmoidRouter,
    "group_limited": partial(SigmoidRouter, groups=8, kept_groups=4),
}

__all__ = ["ROUTERS", "Routing", "TokenContext"]
