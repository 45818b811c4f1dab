"""Routers as PyTorch modules, by name (described in `moesim.routing.router_names`).

Each is built as ``router(hidden, experts, top_k, **options)`` and called with hidden states [token, hidden] and a
`TokenContext`; it hands back a `Routing`. Two differ: Soft MoE hands back a `SlotRouting`, and Chain-of-Experts holds
one router a pass. A router may have ``after_step(routing, progress)``, called after each step of the optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from moesim.lab.routers.base import BaseRouter
from moesim.lab.routers.capacity import OVERFLOW_POLICIES, CapacityLimit
from moesim.lab.routers.chain import ChainRouter
from moesim.lab.routers.depth import MixtureOfDepthsRouter
from moesim.lab.routers.expert_choice import ExpertChoiceRouter
from moesim.lab.routers.fixed import HashRouter, RandomRouter
from moesim.lab.routers.hierarchical import HierarchicalRouter
from moesim.lab.routers.kmeans import KMeansRouter
from moesim.lab.routers.noisy import NoisyTopKRouter
from moesim.lab.routers.options import TopologyCost
from moesim.lab.routers.routing import Routing, TokenContext
from moesim.lab.routers.sigmoid import SigmoidRouter
from moesim.lab.routers.soft import SlotRouting, SoftMoERouter
from moesim.lab.routers.topk import GShardRouter, SoftmaxRouter, switch_router

AnyRouting = Routing | SlotRouting
ROUTERS: dict[str, Callable[..., nn.Module]] = {
    "topk_softmax": SoftmaxRouter,
    "gshard_top2": GShardRouter,
    "switch": switch_router,
    "noisy_topk": NoisyTopKRouter,
    "sigmoid_bias": SigmoidRouter,
    "group_limited": partial(SigmoidRouter, groups=8, kept_groups=4),
    "expert_choice": ExpertChoiceRouter,
    "soft_moe": SoftMoERouter,
    "hash": HashRouter,
    "random": RandomRouter,
    "kmeans": KMeansRouter,
    "base": BaseRouter,
    "hierarchical": HierarchicalRouter,
    "mixture_of_depths": MixtureOfDepthsRouter,
    "chain_of_experts": ChainRouter,
}

__all__ = [
    "OVERFLOW_POLICIES",
    "ROUTERS",
    "AnyRouting",
    "CapacityLimit",
    "ChainRouter",
    "Routing",
    "SlotRouting",
    "TokenContext",
    "TopologyCost",
]
