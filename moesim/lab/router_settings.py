"""Settings under which each router trains in a few hundred steps, and a model with another router."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from moesim.errors import InvalidInput, Problem
from moesim.lab.reference import ReferenceConfig
from moesim.lab.routers import ROUTERS

# Number of experts a token takes where the router's definition fixes it.
FIXED_TOP_K = {"switch": 1, "gshard_top2": 2}
# Balance as the miniatures need it (their papers' weights collapse runs of a few hundred steps); capacity 1.25 as in
# Switch (Fedus et al. 2021, sec. 2.2) where the paper has one.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "topk_softmax": {"router_options": {"aux_weight": 0.05}},
    "gshard_top2": {"router_options": {"aux_weight": 0.05}, "capacity": {"policy": "drop", "factor": 1.25}},
    "switch": {"router_options": {"aux_weight": 0.05}, "capacity": {"policy": "drop", "factor": 1.25}},
    "mixture_of_depths": {"router_options": {"aux_weight": 0.05}},
    "chain_of_experts": {"router_options": {"aux_weight": 0.05}},
    "hierarchical": {"router_options": {"aux_weight": 0.05}},
}


def with_router(config: ReferenceConfig, name: str) -> ReferenceConfig:
    """The model with another router, of the same total and active expert parameters, without priors on its rows."""
    if name not in ROUTERS:
        raise InvalidInput(Problem(f"no router {name!r}; write one of {', '.join(ROUTERS)}", "router"))
    taken = FIXED_TOP_K.get(name, config.top_k)
    width = config.top_k // taken
    return dataclasses.replace(
        config,
        experts=config.experts // width,
        top_k=taken,
        expert_ffn=config.expert_ffn * width,
        router=name,
        groups=config.groups if name == "group_limited" else 1,
        router_scale=0.02,
        group_correlation=0.0,
        layer_correlation=0.0,
        **{"router_options": {}, "capacity": None} | SETTINGS.get(name, {}),
    )


def choice_by(name: str) -> str:
    """Who chooses, and so what the rows of a trace are: a token's choices, choices of it, or slots dealt to it."""
    return {"expert_choice": "expert", "soft_moe": "slot"}.get(name, "token")
