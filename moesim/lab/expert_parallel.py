"""An expert-parallel MoE layer over torch.distributed: dispatch, the rank's own experts, combine.

Rank r of a group of R holds experts r·E/R … (r + 1)·E/R − 1 and routes its own tokens. What it sends is sorted by
expert, hence by rank, so one uneven all-to-all carries a token copy for each chosen expert there and another carries
the results back. Counts travel first, because the receiver must know the splits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, eq=False)
class ExpertWeights:
    """SwiGLU experts of one rank. gate_up: [local expert, hidden, 2·ffn]; down: [local expert, ffn, hidden]."""

    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Token copies sorted by expert. order: [copy] place of each in ids.flatten(); counts: [expert] copies of each."""

    order: Tensor
    counts: Tensor


def moe_layer(
    x: Tensor, ids: Tensor, gates: Tensor, weights: ExpertWeights, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Σ_k gate · expert(x) for the rank's tokens x [token, hidden]; ids, gates: [token, k].

    group: the ranks that share the experts, None for one rank that holds them all.
    """
    ranks = 1 if group is None else dist.get_world_size(group)
    sending = sort_by_expert(ids, ranks * len(weights.down))
    rows = x[sending.order // ids.shape[1]]
    counts = sending.counts.view(ranks, -1)
    if group is None:
        return weigh(routed_rows(rows, counts, weights), sending, gates)
    arriving = torch.empty_like(counts)
    dist.all_to_all_single(arriving, counts, group=group)
    sent, taken = counts.sum(1).tolist(), arriving.sum(1).tolist()
    arrived = exchange(rows, sent, taken, group)
    returned = exchange(routed_rows(arrived, arriving, weights), taken, sent, group)
    return weigh(returned, sending, gates)


def sort_by_expert(ids: Tensor, experts: int) -> Sorted:
    """The copies of tokens with choices ids [token, k], sorted by expert."""
    flat = ids.flatten()
    return Sorted(torch.argsort(flat, stable=True), torch.bincount(flat, minlength=experts))


def exchange(rows: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
    """Send rows [row, hidden], the first `sent[0]` to rank 0 and so on; the rows that arrive, `taken` from each."""
    arrived = rows.new_empty(sum(taken), rows.shape[1])
    dist.all_to_all_single(arrived, rows, taken, sent, group=group)
    return arrived


def routed_rows(rows: Tensor, counts: Tensor, weights: ExpertWeights) -> Tensor:
    """Expert outputs of rows [row, hidden] that lie sorted by (source rank, local expert): counts [source, expert]."""
    sources, experts = counts.shape
    expert = torch.arange(experts, device=rows.device).repeat(sources)
    order = torch.argsort(torch.repeat_interleave(expert, counts.flatten(), output_size=len(rows)), stable=True)
    ends = counts.sum(0).cumsum(0).to(torch.int32)
    gate, up = F.grouped_mm(rows[order], weights.gate_up, offs=ends).chunk(2, dim=1)
    outputs = F.grouped_mm(F.silu(gate) * up, weights.down, offs=ends)
    return torch.empty_like(rows).index_copy_(0, order, outputs)


def weigh(rows: Tensor, sending: Sorted, gates: Tensor) -> Tensor:
    """Mean of the copies' outputs [copy, hidden], which are sorted by expert, weighted with gates [token, k]."""
    tokens, k = gates.shape
    by_token = torch.empty_like(rows).index_copy_(0, sending.order, rows).view(tokens, k, -1)
    return torch.bmm(gates.unsqueeze(1), by_token).squeeze(1)
