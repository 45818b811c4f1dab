"""What a step's router costs and knows, and what full experts dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.routing.route_cache import CacheQuality
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.routers import ROUTERS, Gate, RouterPolicy, RouterWork


def router_metrics(deployment: Deployment, batch: Batch, quality: CacheQuality | None) -> dict[str, object]:
    """Kernels and seconds of one MoE layer's router on the fullest rank, norm included; and of looked-up routes how
    often they are known, how often right, and what a layer takes longer when no token's are."""
    policy = deployment.router
    work = _priced(deployment, batch, policy)
    found = {"kind": policy.kind, "kernels_per_layer": work.kernels, "layer_s": _seconds(work)}
    if quality is not None:
        found |= {"hit_rate": quality.mean_hit_rate, "hit_rate_by_trace_layer": list(quality.hit_rate)}
        found |= {"agreement": quality.agreement}
    if policy.kind == "route_cache":
        none, every = (
            _seconds(_priced(deployment, batch, replace(policy, options={"hit_rate": rate}))) for rate in (0.0, 1.0)
        )
        found["miss_penalty_s"] = none - every
    return found


def dropping_metrics(dropped: np.ndarray, alone: np.ndarray) -> dict[str, object]:
    """Shares of a step, each [moe_layer]. dropped: of the choices. alone: of the tokens that lost all of theirs."""
    return {
        "share": float(dropped.mean()),
        "worst_layer": int(dropped.argmax()),
        "worst_layer_share": float(dropped.max()),
        "tokens_without_experts": float(alone.mean()),
    }


def _priced(deployment: Deployment, batch: Batch, policy: RouterPolicy) -> RouterWork:
    layer = deployment.model.layers[deployment.model.moe_layers[0]]
    parallelism = deployment.parallelism
    most = int(batch.tokens.max(initial=0))
    shared = (
        parallelism.tp if parallelism.attention_dp > 1 else 1
    )  # a group's ranks split its tokens around the experts
    gate = Gate(deployment.machine, deployment.model.hidden, layer.experts, np.array([-(-most // shared)]))
    return ROUTERS[policy.kind](gate, **policy.options)


def _seconds(work: RouterWork) -> float:
    return float(sum(cost.seconds for cost in work.costs)[0])
