"""How many tokens of KV cache a server has room for."""

from __future__ import annotations

import numpy as np

from moesim.errors import Infeasible
from moesim.serving.policy import Policy
from moesim.units import format_bytes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import footprint, kv_bytes
from moesim.workload.stage import stages_of


def kv_capacity(deployment: Deployment, policy: Policy, context: int) -> float:
    """Tokens that one attention-DP rank can cache, by the rule of the policy.

    context: length at which the bytes of a token are taken: windows and linear attention make them fall with length.
    Raises Infeasible when the weights leave no room, saying how many bytes are missing.
    """
    hbm = deployment.machine.device.hbm_bytes
    empty = Batch("decode", np.zeros(deployment.parallelism.attention_dp, dtype=int), 1, 0)
    needs = footprint(deployment, empty, 0, reserve=0.0)
    weights = needs.experts + needs.dense_weights
    left = max(
        policy.memory_share * hbm - weights - policy.other_bytes,
        policy.free_share * (hbm - weights - policy.other_bytes),
    )
    stages = stages_of(deployment)
    of_stage = [[deployment.model.layers[index] for index in stage.layers] for stage in stages]
    fullest = max(kv_bytes(deployment, context, layers) for layers in of_stage)
    per_token = fullest / context / deployment.parallelism.cp
    page = per_token * policy.block_tokens
    if left < page:
        usable = hbm * (1.0 if policy.free_share else policy.memory_share)
        missing = weights + policy.other_bytes + page - usable
        raise Infeasible(
            f"no room for a KV cache: weights take {format_bytes(weights)} of {format_bytes(hbm)} on every device, "
            f"{missing:.0f} bytes too many beside buffers and one page; use more devices, a wider split or a narrower "
            "precision"
        )
    return left / per_token
