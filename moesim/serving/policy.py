"""How a server batches: limits and rules, as values, and the presets of three stacks."""

from __future__ import annotations

from dataclasses import dataclass

ORDERS = ("fcfs", "priority")
PREEMPTIONS = ("recompute", "swap")
DP_PLACEMENTS = ("round_robin", "least_loaded", "kv_aware")


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of one server.

    prefill: ``mixed`` (chunks of prompts share a step with decoding) or ``first`` (decoding pauses for prompts).
    chunked: a prompt may be cut to fit the budget. token_budget: tokens of one step on one attention-DP rank.
    max_sequences: running at once on one rank. order, preemption, dp_placement: see the tuples above.
    block_tokens: of a page of the KV cache. kv_reserve: share of the outputs still to come that admission keeps free
    (1 = a running request never loses its cache). prefix_caching: reuse the blocks of earlier prompts.
    poll_interval: decode steps between two looks for new requests; any prefill looks at once. hold_steps: with
    several attention-DP ranks, steps that prompts wait for one another, so that every rank gets one.
    draft_tokens, acceptance: tokens that multi-token prediction proposes each step, and the chance that one is kept
    given that those before it are.
    memory_share, free_share, other_bytes: KV cache of a GPU = max(memory_share · HBM − weights − other, free_share ·
    (HBM − weights − other)), see `moesim.serving.memory`.
    """

    prefill: str = "mixed"
    chunked: bool = True
    token_budget: int = 8192
    max_sequences: int = 1024
    order: str = "fcfs"
    preemption: str = "recompute"
    dp_placement: str = "round_robin"
    block_tokens: int = 16
    kv_reserve: float = 0.0
    prefix_caching: bool = True
    poll_interval: int = 1
    hold_steps: int = 0
    draft_tokens: int = 0
    acceptance: float = 0.0
    memory_share: float = 0.9
    free_share: float = 0.0
    other_bytes: float = 2e9

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that a sequence gains in a decode step: 1 + a + a² + … over the drafted tokens."""
        return sum(self.acceptance**i for i in range(self.draft_tokens + 1))


# vLLM: `get_batch_defaults` in vllm/engine/arg_utils.py, API server on a GPU of 70 GiB or more: 8192 tokens, 1024
# sequences; V1 always chunks and decodes first; pages of 16; prefix caching on; preemption recomputes;
# gpu_memory_utilization 0.9, of which activations and graphs take some 2 GB.
# SGLang: server_args.py: on such GPUs chunks of 8192 (16384 in the recipes that InferenceX runs), page size 1, radix
# cache on; prompts run before decoding; the schedule keeps room for a share of the outputs to come (new_token_ratio,
# 0.7 and falling: 0.5 is the middle); max_running_requests 256 and mem_fraction_static 0.85 in published recipes, which
# raise the latter where weights fill the GPU: at least 0.6 of what they leave.
# TensorRT-LLM: llm_args.py: max_num_tokens 8192, max_batch_size 2048, chunked prefill off, GUARANTEED_NO_EVICT (all
# outputs reserved), pages of 32, block reuse on; free_gpu_memory_fraction 0.9 of what weights and 5 GB of buffers
# leave, 0.8 in published recipes; attention-DP balance waits 50 iterations.
PRESETS: dict[str, Policy] = {
    "vllm": Policy(),
    "sglang": Policy(
        prefill="first", token_budget=16384, max_sequences=256, block_tokens=1, kv_reserve=0.5, memory_share=0.85,
        free_share=0.6, other_bytes=0.0,
    ),
    "trtllm": Policy(
        chunked=False, max_sequences=2048, block_tokens=32, kv_reserve=1.0, hold_steps=50, memory_share=0.0,
        free_share=0.8, other_bytes=5e9,
    ),
}  # fmt: skip
