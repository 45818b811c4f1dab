"""The routers that ``moesim capture`` and ``moesim compare-routers`` know, described without importing torch.

`moesim.lab.routers.ROUTERS` has the modules under the same names.
"""

from __future__ import annotations

ROUTER_NAMES: dict[str, str] = {
    "topk_softmax": "softmax gates, k best experts, auxiliary balance loss (Mixtral, Qwen3, OLMoE)",
    "gshard_top2": "top-2, the second expert used at random by its gate (GShard)",
    "switch": "top-1, gated by its probability (Switch Transformer)",
    "noisy_topk": "top-k of noisy scores, importance and load losses; Gumbel noise as an option (Shazeer et al. 2017)",
    "sigmoid_bias": "sigmoid gates, balanced by a bias on the choice (DeepSeek-V3, Kimi-K2, GLM-4.5)",
    "group_limited": "sigmoid_bias with the choice limited to 4 of 8 groups of experts (DeepSeek-V3)",
    "expert_choice": "experts take their best tokens: even load, a varying number of experts a token",
    "soft_moe": "experts compute weighted means of tokens: even load, nothing chosen (Soft MoE, Mixture of Tokens)",
    "hash": "experts by a fixed hash of the token (Hash Layers)",
    "random": "experts drawn anew for every token (THOR)",
    "kmeans": "experts are clusters of hidden states, nearest centroids win",
    "base": "balanced assignment of tokens to experts, exact or by Sinkhorn (BASE, S-BASE)",
    "hierarchical": "first groups of experts, then experts inside them (Shazeer et al. 2017)",
    "mixture_of_depths": "some tokens skip the experts of a layer, the others are routed by topk_softmax",
    "chain_of_experts": "several passes through a layer's experts, each routed anew",
}
