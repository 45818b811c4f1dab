"""Pools that only compute prompts or only decode (disaggregated serving with wide EP): one step, for `moesim run`.

Pools with wide EP under SGLang and at DeepSeek overlap two micro-batches unless the text denies it, or where decoding
has too few sequences for it to pay (`_TWO_BATCHES_FROM`); decoding cuts its exchanges by DeepEP's hooks. Speed-ups are
over no overlap at all: SGLang's DeepEP path of 2025 computes the shared expert before dispatch (deepseek_v2.py,
`forward_deepep`).
"""

from __future__ import annotations

from moesim.cost.exchange import KERNELS
from moesim.serving.policy import PRESETS
from moesim.study.entries.deployment.server import SERVER, Server, domain, occurs
from moesim.study.entries.inference.closed_loops import PRESET, capacity
from moesim.study.entries.inference.lengths import Lengths
from moesim.study.entries.inference.traffic import Traffic
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry

# Sequences of a rank between which a pool overlaps two micro-batches or does not: SGLang lost 27 % by it at 32 and won
# 25.5 % at 256 (its blog on large-scale EP of May 2025). From where on it pays was not published; 64 is assumed.
_TWO_BATCHES_LOSE, _TWO_BATCHES_FROM, _TWO_BATCHES_WIN = 32, 64, 256
_LOW_LATENCY_TOKENS = 256  # of a rank, that the buffers of low-latency kernels between nodes are made for


def overlap_of(server: Server, text: str) -> dict[str, object]:
    """Two micro-batches in turns where SGLang and DeepSeek serve with wide EP."""
    if server.ep <= 8 or server.stack not in ("sglang", "deepseek"):
        return {"kind": "shared_expert"}
    if occurs(r"(without|no|w/o) (tbo|two)", text):
        return {"kind": "none"}
    return {"kind": "two_batch"}


def decode_step(
    server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions, overlap: dict[str, object]
) -> dict[str, object]:
    """One decode step of a pool that only decodes: the file of `moesim run`."""
    context = lengths.input + (lengths.output or 0) // 2
    sequences = traffic.sequences
    if sequences is None:
        preset = PRESET.get(server.stack, "sglang")
        room = capacity(server, PRESETS[preset], Lengths(context, 1))
        if server.devices > domain(server.hardware):
            room = min(room, _LOW_LATENCY_TOKENS)
        sequences = room - room % 2 if room > 1 else 1
        assume.note(f"{sequences} sequences a rank")
    work: dict[str, object] = {"kind": "decode", "sequences_per_rank": sequences, "context": context}
    if traffic.drafts:
        work["speculative"] = {"draft_tokens": traffic.drafts, "acceptance": traffic.acceptance} | (
            # SGLang simulated drafts by doubling the tokens, and its attention read the cache for each of them.
            {"draft": {"kind": "lookup"}, "cache_reads": "each_token"}
            if traffic.simulated
            else {"draft": {"kind": "mtp"}}
        )
    kernel = _kernel(server, prompts=False)
    if overlap["kind"] == "two_batch" and _TWO_BATCHES_LOSE < sequences < _TWO_BATCHES_WIN:
        assume.note(f"two micro-batches overlap from {_TWO_BATCHES_FROM} sequences a rank on")
    if overlap["kind"] == "two_batch" and sequences < _TWO_BATCHES_FROM:
        overlap = {"kind": "shared_expert"}
    elif overlap["kind"] == "two_batch" and KERNELS[kernel].hooks:
        overlap = {**overlap, "hooks": True}
    return server.document() | {
        "workload": work,
        "overlap": overlap,
        "network": {"all_to_all": kernel},
        "precision": _on_the_wire(server, kernel),
    }


def prefill_step(
    entry: Entry, server: Server, lengths: Lengths, assume: Assumptions, overlap: dict[str, object]
) -> dict[str, object]:
    """One step of a pool that only computes prompts."""
    prompt = lengths.input
    tokens = words.count(entry.batch) if occurs("tok", entry.batch.lower()) else None
    tokens = int(assume.take(tokens, max(8192, prompt), "new tokens a rank"))
    prompts = max(1, round(tokens / prompt))
    if overlap["kind"] == "two_batch" and prompts < 2:
        overlap = {"kind": "shared_expert"}
    return server.document() | {
        "workload": {"kind": "prefill", "sequences_per_rank": prompts, "prompt": prompt},
        "overlap": overlap,
        "network": {"all_to_all": _kernel(server, prompts=True)},
        "precision": _on_the_wire(server, _kernel(server, prompts=True)),
    }


# Kernels that take tokens quantised for NVFP4 experts: DeepEP's (its PR 341; VLLM_DEEPEPLL_NVFP4_DISPATCH, which
# recipes for GB200 set in decode), and TensorRT-LLM's all-to-all over NVLink, which sends what the experts take.
_NVFP4 = ("deepep_low_latency", "nvlink_one_sided")


def _on_the_wire(server: Server, kernel: str) -> dict[str, str]:
    """The server's formats; DeepEP sends tokens to FP8 experts in FP8, and some kernels to NVFP4 experts in NVFP4."""
    experts = server.precision["experts"]
    narrow = (kernel.startswith("deepep") and experts == "fp8_block") or (kernel in _NVFP4 and experts == "nvfp4")
    return server.precision | ({"dispatch": experts} if narrow else {})


def _kernel(server: Server, *, prompts: bool) -> str:
    """The all-to-all kernel of a wide expert-parallel pool."""
    if server.hardware.device.kind == "tpu":
        return "ragged_all_to_all"
    hardware = server.hardware
    if hardware.topology["kind"] != "nvlink" or "fp8" not in hardware.device.peak:  # DeepEP's are for Hopper and later
        return "nccl"
    if server.stack == "trtllm" and domain(hardware) > SERVER:
        return "nvlink_one_sided"
    return "deepep_normal" if prompts else "deepep_low_latency"
