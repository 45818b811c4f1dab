"""Routed experts on one device: rows sorted by expert, one grouped matrix product a projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesim.lab.routers import AnyRouting, Routing, SlotRouting


class RoutedExperts(nn.Module):
    """N SwiGLU experts of inner width `ffn`. Work is proportional to the routed rows, however skewed they are."""

    def __init__(self, hidden: int, experts: int, ffn: int):
        super().__init__()
        self.experts = experts
        self.gate_up = nn.Parameter(torch.empty(experts, hidden, 2 * ffn))
        self.down = nn.Parameter(torch.empty(experts, ffn, hidden))

    def forward(self, x: Tensor, routing: AnyRouting) -> Tensor:
        """Σ_k gate · expert(x) for x [token, hidden]; choices that are not kept add nothing."""
        if isinstance(routing, SlotRouting):
            return self.mix_slots(x, routing)
        rows, expert, gates = flatten_routing(routing)
        order = torch.argsort(expert, stable=True)
        rows = rows[order]
        ends = torch.bincount(expert, minlength=self.experts).cumsum(0).to(torch.int32)
        outputs = self.compute(x[rows], ends) * gates[order].unsqueeze(1)
        return torch.zeros_like(x).index_add(0, rows, outputs)

    def mix_slots(self, x: Tensor, routing: SlotRouting) -> Tensor:
        """Soft MoE: experts on weighted means of the tokens of a pool, weighted means of their outputs back."""
        pools, tokens, slots = routing.dispatch.shape
        rows = x.view(tokens, pools, -1).transpose(0, 1) if routing.transposed else x.view(pools, tokens, -1)
        means = (routing.dispatch.transpose(1, 2) @ rows).transpose(0, 1)  # [slot, pool, hidden]: sorted by expert
        per_expert = routing.slots_per_expert * pools
        ends = torch.arange(1, self.experts + 1, dtype=torch.int32) * per_expert
        outputs = self.compute(means.reshape(slots * pools, -1), ends).view(slots, pools, -1).transpose(0, 1)
        mixed = routing.combine @ outputs
        return (mixed.transpose(0, 1) if routing.transposed else mixed).reshape(x.shape)

    def compute(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Expert outputs of rows [row, hidden] that are sorted by expert; ends: [expert] int32 last row + 1 of each."""
        gate, up = F.grouped_mm(rows, self.gate_up, offs=ends).chunk(2, dim=1)
        return F.grouped_mm(F.silu(gate) * up, self.down, offs=ends)


def flatten_routing(routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    """(token, expert, gate) of every kept choice, each [row]."""
    tokens, k = routing.ids.shape
    token = torch.arange(tokens).repeat_interleave(k)
    expert, gates = routing.ids.flatten(), routing.gates.flatten()
    if routing.kept is None:
        return token, expert, gates
    kept = routing.kept.flatten()
    return token[kept], expert[kept], gates[kept]
