"""In which formats the server of a published inference figure holds its weights and its cache.

Rules that hold for all entries alike, where a text does not say:

- FP4 checkpoints: experts alone for MLA models (nvidia/DeepSeek-R1-FP4), unless the others would then not fit on every
  device (nvidia/DeepSeek-R1-0528-NVFP4-v2); all matrices for others (nvidia/Qwen3-235B-A22B-FP4); models released in
  MXFP4 stay in it;
- FP8: 128x128 blocks; KV cache in FP8 on chips with FP4 units unless all is BF16, else BF16. TensorRT-LLM runs
  NVIDIA's own FP8 checkpoints of models released in BF16 (nvidia/Qwen3-235B-A22B-FP8, nvidia/Llama-4-…-FP8): one
  scale a tensor in all matrices, KV cache in FP8 (their hf_quant_config.json);
- chips without the format's matrix units multiply in BF16; where the released format does not fit, 4 bits (INT4).
"""

from __future__ import annotations

from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.model.architecture import MoEModel
from moesim.model.parameters import parameters
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.formats import Formats


def expert_parameters(model: MoEModel) -> tuple[int, int]:
    """(parameters of all routed experts, all others)."""
    found = parameters(model)
    return found.routed_experts, found.total - found.routed_experts


def precision(
    given: Formats, model: MoEModel, hardware: Hardware, devices: int, assume: Assumptions, stack: str
) -> dict[str, str]:
    """Formats by kind of tensor, by the rules at the top."""
    peak = hardware.device.peak
    released = model.native_experts or model.native
    weights = given.weights
    if weights is None:
        experts, rest = expert_parameters(model)
        fits = (experts + rest) * PRECISIONS[released].bytes < 0.85 * devices * hardware.device.hbm_bytes
        words_of = "weights as released:" if fits else "weights, as the released ones would not fit:"
        weights = str(assume.take(None, released if fits else "int4", words_of))
    mla = any(layer.attention and layer.attention.kind == "mla" for layer in model.layers)
    experts = dense = {"fp8_any": "fp8_block", "fp8": "fp8_block"}.get(weights, weights)
    if released.startswith("mxfp4") and weights != "bf16":
        experts, dense = "mxfp4", "bf16"
    elif weights in ("fp4", "nvfp4"):
        split, whole = expert_parameters(model)
        held = split * PRECISIONS["nvfp4"].bytes / devices + whole * PRECISIONS["bf16"].bytes
        experts, dense = "nvfp4", "bf16" if mla and held < hardware.device.hbm_bytes else "nvfp4"
    elif weights in ("mxfp4", "int4"):
        dense = "bf16"
    modelopt = stack == "trtllm" and released == "bf16" and weights in ("fp8", "fp8_any")
    if modelopt:
        experts = dense = "fp8"
    narrow = modelopt or ("fp4" in peak and experts != "bf16")
    kv = given.kv or ("fp8" if narrow and "fp8" in peak else "bf16")
    found = {"experts": experts, "dense": dense, "dispatch": "bf16", "combine": "bf16", "kv": kv}
    if experts == "nvfp4" and "fp4" not in peak:  # weight-only kernels of Marlin's kind know it as four bits
        found |= {"experts": "mxfp4", "dense": "mxfp4" if dense == "nvfp4" else dense}
    for key, activations in (("experts", "expert_activations"), ("dense", "activations")):
        own = "mxfp8" if found[key] == "mxfp4" and "fp8" in peak and "fp4" in peak else None
        wanted = PRECISIONS[own or found[key]]
        if matmul_peak(PRECISIONS[found[key]], wanted) not in peak or (found[key] == "mxfp4" and own is None):
            own = "bf16"
        if own:
            found[activations] = own
    return found
