"""Routers that learn nothing: by hash of the token, and at random."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moesim.lab.routers.routing import Routing, TokenContext


class HashRouter(nn.Module):
    """Experts by a fixed random hash of the token id, equal gates (Hash Layers, Roller et al. 2021, "random hash").

    The k experts of a token are those of the k highest hash values over (token, expert), so they differ.
    """

    def __init__(self, hidden: int, experts: int, top_k: int, *, seed: int = 0):
        super().__init__()
        self.experts, self.top_k, self.seed = experts, top_k, seed

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden] by context.tokens alone."""
        pairs = context.tokens.flatten()[:, None] * self.experts + torch.arange(self.experts)
        ids = mixed(pairs + (self.seed << 32)).topk(self.top_k, dim=1).indices
        return Routing(ids, x.new_full(ids.shape, 1 / self.top_k), x.new_zeros(()))


class RandomRouter(nn.Module):
    """k experts drawn uniformly for every token, equal gates (the random gating of THOR, Zuo et al. 2022)."""

    def __init__(self, hidden: int, experts: int, top_k: int):
        super().__init__()
        self.experts, self.top_k = experts, top_k

    def forward(self, x: Tensor, context: TokenContext) -> Routing:
        """Route x [token, hidden]."""
        drawn = torch.rand(len(x), self.experts, generator=context.generator)
        ids = drawn.topk(self.top_k, dim=1).indices
        return Routing(ids, x.new_full(ids.shape, 1 / self.top_k), x.new_zeros(()))


def mixed(values: Tensor) -> Tensor:
    """Scramble int64 values: the finaliser of SplitMix64 (Steele et al. 2014), arithmetic modulo 2^64."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        values = (values ^ logical_shift(values, shift)) * factor
    return values ^ logical_shift(values, 31)


def logical_shift(values: Tensor, bits: int) -> Tensor:
    """Right shift of int64 that fills with zeros."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
