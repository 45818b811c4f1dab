"""HBM that expert-parallel kernels keep: for what arrives, or for the worst that could."""

from __future__ import annotations

from moesim.cost.exchange import KERNELS
from moesim.hardware.precision import Precision


def buffer_bytes(
    kernel: str,
    *,
    tokens: int,
    ranks: int,
    slots: int,
    hidden: int,
    received: int,
    dispatch: Precision,
    combine: Precision,
) -> float:
    """Bytes that dispatch and combine keep on a rank.

    tokens: that a rank sends at most; ranks: of the group; slots: experts on a rank; received: most that a rank takes.
    ``peak``: tensors of what arrived and of what goes back. ``low_latency``: DeepEP's kernels cannot know what will
    arrive, so that every expert has room for all tokens of every rank: two buffers (one a micro-batch), each to send
    and to receive the larger of a dispatched token (BF16 or FP8 with scales, 16 bytes of header) and a combined one
    (BF16) for every expert; and the tensors that experts read and write (DeepEP, csrc/config.hpp, LowLatencyLayout).
    ``every_source``: a workspace with room for all tokens of every rank, both ways (TensorRT-LLM's one-sided kernels).
    """
    kind, back = KERNELS[kernel].buffers, hidden * combine.bytes
    there = hidden * dispatch.bytes
    if kind == "peak":
        return received * (there + back)
    if kind == "every_source":
        return ranks * tokens * (there + back)
    room = ranks * slots * tokens
    message = 2 * hidden + 16
    return 2 * room * (2 * hidden + message) + room * (there + back)
