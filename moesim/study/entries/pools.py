"""Pools that only compute prompts or only decode (disaggregated serving with wide EP): one step, for `moesim run`.

Pools with wide EP under SGLang and at DeepSeek overlap two micro-batches unless the text denies it, or where decoding
has too few sequences for it to pay (`_TWO_BATCHES_FROM`); decoding cuts its exchanges by DeepEP's hooks. Speed-ups are
over no overlap at all: SGLang's DeepEP path of 2025 computes the shared expert before dispatch (deepseek_v2.py,
`forward_deepep`).
"""

from __future__ import annotations

from moesim.cost.exchange import KERNELS
from moesim.serving.policy import PRESETS
from moesim.study.entries import words
from moesim.study.entries.case import Assumptions
from moesim.study.entries.closed_loops import PRESET, capacity
from moesim.study.entries.deployment import SERVER, Server, domain, occurs
from moesim.study.entries.entry import Entry
from moesim.study.entries.lengths import Lengths
from moesim.study.entries.traffic import Traffic

# Sequences of a rank from which decoding overlaps two micro-batches: SGLang lost by it at 32 and won at 256.
_TWO_BATCHES_FROM = 64
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


def _on_the_wire(server: Server, kernel: str) -> dict[str, str]:
    """The server's formats; DeepEP sends tokens to FP8 experts in FP8."""
    narrow = kernel.startswith("deepep") and server.precision["experts"] == "fp8_block"
    return server.precision | ({"dispatch": "fp8_block"} if narrow else {})


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
