"""The routed experts of a rank behind a dispatch that sorts for them: DeepGEMM's grouped products and what is between.

Pools with wide expert parallelism do not run the kernels of `moesim.cost.experts_kernel`, which permute, route and
reduce by themselves. DeepEP hands tokens over expert by expert (low latency) or with a count for every expert (normal),
and SGLang, vLLM and DeepSeek's own stack run DeepGEMM's products on them, *masked* or *contiguous*, in FP8 with 128x128
blocks; in NVFP4 they run CUTLASS's (CuteDSL, FlashInfer). With the products of the equation there, P pairs, hidden h,
inner width f, g = 2 with a gate (else 1), a bytes of an activation's element and T tokens that have arrived:

    t = products + n·2 µs + P·f·(2·g + a) / (0.8·BW)                      activation, with quantisation
      + (2·P·h·a + 2·(P + T)·h) / (0.8·BW)                                 only where tokens arrive once a rank

n is 3 kernels, and 2 more where tokens arrive once a rank: one copies them to their experts, one adds outputs up
(SGLang's ``ep_scatter`` and ``ep_gather``). 2 µs is the fixed time of a kernel in a graph, 0.8 BW what streaming
kernels reach (`moesim.cost.launch`, `moesim.cost.memory`).

The products are those of TensorRT-LLM's tables: its block-scaled kernels are DeepGEMM's (the ``deepgemm`` backend on
Blackwell, ``fp8_blockscale_gemm`` on Hopper), its NVFP4 ones CUTLASS's. Independent figures: DeepGEMM's README (H800),
contiguous 1,346 and 1,214 TFLOP/s, masked 4 x 256 tokens 932 and 815; modelled: 1,206 for both products, 969.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from moesim.cost.experts_kernel import formats_of, product_seconds
from moesim.cost.experts_table import EXPERTS
from moesim.cost.fitting import Rows
from moesim.cost.launch import KERNEL_S
from moesim.cost.memory import STREAM_SHARE
from moesim.hardware.device import Device

STACK = "trtllm"  # whose tables hold these products
DTYPES = ("fp8_block", "nvfp4")  # that run as bare grouped products
_BF16_BYTES = 2.0


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds by the equation at the top. ``scattered`` [rows]: 1 where tokens arrive once a rank, else 0."""
    kernels = 3 + 2 * rows["scattered"]
    streamed = between(rows) / (STREAM_SHARE * device.hbm_bytes_per_s)
    return product_seconds(device, rows, parameters, choices) + kernels * KERNEL_S + streamed


def between(rows: Rows) -> np.ndarray:
    """[rows] bytes that stream through HBM besides the products' operands.

    The activation reads gate and up in BF16 and writes its product in the experts' format. Where tokens arrive once a
    rank, each is read and written for every expert it goes to, and outputs are read and their sums written in BF16.
    """
    narrow = formats_of(rows)[1].bytes
    hidden, width, pairs = rows["hidden_size"], rows["width"], rows["pairs"]
    activation = pairs * width * ((rows["gated"] + 1) * _BF16_BYTES + narrow)
    scatter = 2 * pairs * hidden * narrow
    gather = (pairs + rows["tokens"]) * hidden * _BF16_BYTES
    return activation + rows["scattered"] * (scatter + gather)


GROUPED = replace(EXPERTS, predict=predict, select=None, variants={})
