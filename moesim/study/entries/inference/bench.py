"""How `trtllm-bench throughput`, TensorRT-LLM's own tool, drives a server for its tables of maximum throughput.

The tool queues all requests of a run at once and divides their tokens by the time until the last one ends, so that a
run of few rounds shows its ramp and its tail. How many requests, and what else the tables' runs were told, states
TensorRT-LLM, docs/source/developer-guide/perf-overview.md (@03e27c7d), which calls for the tool without limits of its
own. The limits that the tool then sets come from its estimate of the cache (tensorrt_llm/bench/build/tuning.py):
sequences rounded up, and tokens of a step in proportion to the prompts that the sequences bring. The estimate knew no
latent attention before 2026, and recipes of such models state limits by hand: they keep the stack's.
"""

from __future__ import annotations

import math

from moesim.hardware.precision import PRECISIONS
from moesim.model.parameters import parameters
from moesim.study.entries.deployment.server import Server
from moesim.study.entries.inference.lengths import Lengths

# "Preparing a Dataset" of the page: requests by (prompt, output).
_REQUESTS = {(1024, 1024): 3000, (8192, 1024): 1500, (1024, 8192): 1500, (32768, 1024): 1000, (1024, 32768): 1000}
MEMORY = 0.95  # kv_cache_free_gpu_mem_fraction of the page, "in many cases"
# attention_dp_config of the page: for DeepSeek-R1 alone prompts wait, at most 60 iterations, until every rank has one.
_BALANCED, _WAIT = "deepseek", 60
_MOST_SEQUENCES, _MOST_TOKENS = 4096, 32768  # that the tool sets
_FEWEST_SEQUENCES, _FEWEST_TOKENS = 64, 2048
_ESTIMATED = ("nvfp4", "fp8", "fp8_block", "bf16")  # weights whose bytes the tool knows; others keep the stack's limits


def requests(lengths: Lengths) -> int:
    """Requests of a run, of the listed lengths that are nearest in their sum."""
    nearest = min(_REQUESTS, key=lambda listed: abs(math.log(sum(listed) / (lengths.input + lengths.output))))
    return _REQUESTS[nearest]


def rules(server: Server, lengths: Lengths) -> dict[str, int]:
    """What the tool sets of a server's rules, by their names in a scenario; empty where they stay the stack's."""
    found = {"hold_steps": _WAIT if server.model.name.startswith(_BALANCED) else 0}
    attention = [layer.attention for layer in server.model.layers if layer.attention]
    if server.precision["experts"] not in _ESTIMATED or any(each.kind != "gqa" for each in attention):
        return found
    held = (
        MEMORY * (server.devices * server.hardware.device.hbm_bytes - _weights(server)) / _cache_bytes(server, lengths)
    )
    sequences = min(max(held, 1.0), _MOST_SEQUENCES)
    tokens = min(sequences * (1 + lengths.input / lengths.output), _MOST_TOKENS)
    most = max(_FEWEST_SEQUENCES, _up(sequences, 32 if sequences < 256 else 128 if sequences < 1024 else 256))
    budget = max(_FEWEST_TOKENS, _up(tokens, 256 if tokens < 4096 else 512 if tokens < 8192 else 1024))
    # Prompts are not cut: a step takes a whole one beside all sequences.
    return found | {"max_sequences": most, "token_budget": max(budget, lengths.input + most)}


def _up(number: float, step: int) -> int:
    return step * math.ceil(number / step)


def _weights(server: Server) -> float:
    """Bytes that the tool takes the weights for: elements of the stored tensors times the bytes of the format. Tensors
    hold two FP4 weights in an element, so FP4 counts twice."""
    form = PRECISIONS[server.precision["experts"]]
    return parameters(server.model).total * (0.25 if form.name == "nvfp4" else 2.0 if form.name == "bf16" else 1.0)


def _cache_bytes(server: Server, lengths: Lengths) -> float:
    """Bytes of a request's keys and values as the tool counts them: on all devices, each with a head at least."""
    layers = [layer.attention for layer in server.model.layers if layer.attention]
    elements = sum(2 * max(server.devices, each.kv_heads) * each.head_dim for each in layers)
    return elements * PRECISIONS[server.precision["kv"]].bytes * (lengths.input + lengths.output)
