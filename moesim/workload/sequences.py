"""How context parallelism cuts the sequences of a batch."""

from __future__ import annotations

from dataclasses import replace

from moesim.model.architecture import Attention
from moesim.model.per_token import attended_tokens
from moesim.workload.deployment import Batch


def own_part(attention: Attention, batch: Batch, cp: int) -> tuple[int, Batch]:
    """What one of cp ranks attends with: (divisor of its sequences, batch of its queries and of the tokens they see).

    Prefill: its part of every prompt; queries from both ends see as many tokens as the mean one. Decode: its part of
    every context, or its part of the sequences where the state of linear attention stays with their owner.
    """
    if cp == 1:
        return 1, batch
    if batch.phase == "decode":
        if attention.kind == "linear":
            return cp, batch
        visible = int(attended_tokens(attention, batch.context + batch.new_tokens))
        return 1, replace(batch, context=max(-(-visible // cp) - batch.new_tokens, 0))
    new = -(-batch.new_tokens // cp)
    return 1, replace(batch, new_tokens=new, context=batch.context + (batch.new_tokens - new) // 2)
