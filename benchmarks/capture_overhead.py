"""What recording costs: forward pass of one OLMoE-sized layer with and without the hooks of a capture.

    python benchmarks/capture_overhead.py

OLMoE-1B-7B: hidden 2,048, 64 experts of width 1,024, top-8 (transformers' OlmoeConfig). One layer, 512 tokens a pass,
random weights, one thread; passes with and without hooks alternate, so that a busy machine disturbs both alike. The
hook's own time is also taken alone, because it is far below the noise of the passes. Budget: 5 % of the pass.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from moesim.lab.capture import Recorder
from moesim.lab.training import one_thread
from moesim.lab.transformers_capture import find_routers, hooked, routing_of

TOKENS, REPEATS, BUDGET = 512, 8, 0.05


def cpu_seconds(call) -> float:
    """CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure() -> dict[str, float]:
    """Median CPU seconds of a pass, plain and recorded, and of recording alone."""
    torch.manual_seed(0)
    model = OlmoeForCausalLM(OlmoeConfig(num_hidden_layers=1, vocab_size=1024)).eval()
    layer, routers = model.model, find_routers(model)
    rows = torch.randint(1024, (1, TOKENS))
    recorder = Recorder(experts=64)
    seen: list[tuple] = []
    handle = routers[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))

    def plain() -> None:
        layer(input_ids=rows, use_cache=False)

    def recorded() -> None:
        with hooked(routers) as choices:
            layer(input_ids=rows, use_cache=False)
            recorder.add(choices)

    with one_thread(), torch.inference_mode():
        plain()
        handle.remove()
        times = [(cpu_seconds(plain), cpu_seconds(recorded)) for _ in range(REPEATS)]
        alone = [cpu_seconds(lambda: recorder.add([routing_of(routers[0], seen[0])])) for _ in range(50)]
    without, with_hooks = np.median(times, axis=0)
    return {
        "forward_s": float(without),
        "forward_with_capture_s": float(with_hooks),
        "recording_alone_s": float(np.median(alone)),
        "recording_share": float(np.median(alone) / without),
    }


if __name__ == "__main__":
    result = measure()
    print(json.dumps(result, indent=1))
    raise SystemExit(result["recording_share"] > BUDGET)
