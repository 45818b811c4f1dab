"""A reference Mixture-of-Experts language model: causal attention, routed experts beside a shared one, any router.

Pre-norm decoder with RMSNorm, rotary positions, SwiGLU and a tied embedding. The routing geometry (experts, top-k,
groups, gate) is that of the model being imitated; everything else is narrow enough to train on one CPU core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moesim.errors import InvalidInput, Problem
from moesim.lab.experts import RoutedExperts
from moesim.lab.initialisation import initialise
from moesim.lab.routers import ROUTERS, AnyRouting, CapacityLimit, ChainRouter, Routing, TokenContext


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    """Shape of a reference model.

    dense_layers come first, then moe_layers. expert_ffn, shared_ffn (0 = no shared expert) and dense_ffn: inner widths.
    router: a key of `ROUTERS`; router_options: its keyword arguments. capacity: keyword arguments of `CapacityLimit`,
    None = experts take whatever comes. router_scale: standard deviation of the router rows at initialisation;
    group_correlation, layer_correlation: share of their variance that experts of one of `groups` routing groups, and
    experts of successive layers, have in common (see `initialise_routers`). conv: width of a causal convolution over
    the last tokens at the bottom of the model, 0 = none; conv_scale: its first tap at initialisation.
    """

    vocabulary: int
    hidden: int
    heads: int
    dense_layers: int
    moe_layers: int
    experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int
    dense_ffn: int
    router: str
    router_options: Mapping[str, object] = field(default_factory=dict)
    capacity: Mapping[str, object] | None = None
    router_scale: float = 0.02
    groups: int = 1
    group_correlation: float = 0.0
    layer_correlation: float = 0.0
    conv: int = 0
    conv_scale: float = 0.6


class ShortConvolution(nn.Module):
    """Residual causal depthwise convolution over the last `width` tokens (a Canon layer: Allen-Zhu 2025)."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [sequence, position, hidden]."""
        width = self.taps.shape[1]
        padded = F.pad(x.transpose(1, 2), (width - 1, 0))
        return x + F.conv1d(padded, self.taps.unsqueeze(1), groups=len(self.taps)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU of inner width `ffn`."""

    def __init__(self, hidden: int, ffn: int):
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [token, hidden]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class MoELayer(nn.Module):
    """Routed experts plus an always-on shared expert."""

    def __init__(self, config: ReferenceConfig):
        super().__init__()
        self.router = ROUTERS[config.router](config.hidden, config.experts, config.top_k, **config.router_options)
        self.limit = None if config.capacity is None else CapacityLimit(config.experts, **config.capacity)
        self.routed = RoutedExperts(config.hidden, config.experts, config.expert_ffn)
        self.shared = FeedForward(config.hidden, config.shared_ffn) if config.shared_ffn else None

    def forward(self, x: Tensor, context: TokenContext) -> tuple[Tensor, list[AnyRouting]]:
        """Output [token, hidden] for x [token, hidden], and the routing of each pass through the experts."""
        passes = self.router.passes if isinstance(self.router, ChainRouter) else [self.router]
        out, routings = torch.zeros_like(x), []
        for router in passes:
            state = x if len(passes) == 1 else x + out
            routing = router(state, context)
            if self.limit is not None and isinstance(routing, Routing):
                routing = self.limit(routing)
            out = out + self.routed(state, routing)
            routings.append(routing)
        return (out if self.shared is None else out + self.shared(x)), routings

    def after_step(self, routings: list[AnyRouting], progress: float) -> None:
        """The updates that are not gradient descent: biases, capacities. progress: 0 … 1 through training."""
        for part in (self.router, self.limit):
            if hasattr(part, "after_step"):
                part.after_step(routings[-1], progress)


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x: [sequence, position, hidden]."""
        sequences, positions, hidden = x.shape
        q, k, v = self.qkv(x).view(sequences, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, *rotation), rotate(k, *rotation), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(sequences, positions, hidden))


class Block(nn.Module):
    """Attention, then a dense or a routed feed-forward part, each on a normalised residual stream."""

    def __init__(self, config: ReferenceConfig, routed: bool):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden)
        self.attention = Attention(config.hidden, config.heads)
        self.ffn_norm = nn.RMSNorm(config.hidden)
        self.ffn = MoELayer(config) if routed else FeedForward(config.hidden, config.dense_ffn)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], context: TokenContext
    ) -> tuple[Tensor, list[AnyRouting]]:
        """x: [sequence, position, hidden]."""
        x = x + self.attention(self.attention_norm(x), rotation)
        rows = self.ffn_norm(x).flatten(0, 1)
        out, routings = self.ffn(rows, context) if isinstance(self.ffn, MoELayer) else (self.ffn(rows), [])
        return x + out.view_as(x), routings


class ReferenceModel(nn.Module):
    """The language model. Parameters are drawn from `generator`, so a seed fixes them."""

    def __init__(self, config: ReferenceConfig, generator: torch.Generator):
        if config.router not in ROUTERS:
            raise InvalidInput(Problem(f"no router {config.router!r}; write one of {', '.join(ROUTERS)}", "router"))
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.conv = ShortConvolution(config.hidden, config.conv) if config.conv else nn.Identity()
        routed = [False] * config.dense_layers + [True] * config.moe_layers
        self.blocks = nn.ModuleList(Block(config, moe) for moe in routed)
        self.norm = nn.RMSNorm(config.hidden)
        initialise(self, config, generator)

    @property
    def moe_layers(self) -> list[MoELayer]:
        """The layers with routed experts, in order."""
        return [block.ffn for block in self.blocks if isinstance(block.ffn, MoELayer)]

    def forward(
        self, tokens: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, list[list[AnyRouting]]]:
        """Logits [sequence, position, vocabulary] of tokens [sequence, position], and each MoE layer's routings."""
        context = TokenContext(tokens, generator)
        x = self.conv(self.embedding(tokens) * self.config.hidden**0.5)
        rotation = rotary_angles(tokens.shape[1], self.config.hidden // self.config.heads)
        routings = []
        for block in self.blocks:
            x, made = block(x, rotation, context)
            if made:
                routings.append(made)
        return F.linear(self.norm(x), self.embedding.weight), routings


def rotary_angles(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [position, head_dim / 2], base 10,000 (Su et al. 2021)."""
    inverse = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(positions)[:, None] * inverse
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of x [..., position, head_dim] by the position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
