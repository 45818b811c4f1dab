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
        initialise(self, generator)

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


@torch.no_grad()
def initialise(model: ReferenceModel, generator: torch.Generator) -> None:
    """Draw all weights: normal, std fan_in^-1/2 (projections back into the residual stream × .4), embedding std .02."""
    config = model.config
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            continue
        if name.endswith("router.scale"):
            continue
        if ".router." in name:
            parameter.normal_(0, config.router_scale, generator=generator)
        elif name == "conv.taps":
            parameter.copy_(config.conv_scale * 0.75 ** torch.arange(config.conv).flip(0))
        elif name == "embedding.weight":
            parameter.normal_(0, 0.02, generator=generator)
        else:
            fan_in = parameter.shape[-2] if parameter.ndim == 3 else parameter.shape[-1]
            shrink = 0.4 if "down" in name or "attention.out" in name else 1.0
            parameter.normal_(0, shrink * fan_in**-0.5, generator=generator)
    if config.group_correlation or config.layer_correlation:
        initialise_routers([layer.router.weight for layer in model.moe_layers], config, generator)


@torch.no_grad()
def initialise_routers(weights: list[Tensor], config: ReferenceConfig, generator: torch.Generator) -> None:
    """Router rows that start out alike inside a group and from layer to layer.

    In each layer w_e = scale (√(1−ρ) z_e + √ρ z_group(e)); the z of a layer are √c times those of the layer below, in
    a new order of groups and of experts inside them, plus √(1−c) times fresh ones. Chosen priors, not something
    learned: in DeepSeek-R1 hot experts cluster inside the routing groups, and in DeepSeek-V2-Lite a layer's choices
    foretell the next layer's; neither comes about in a training of some hundred steps.
    """
    groups, size = config.groups, config.experts // config.groups
    rho, c = config.group_correlation, config.layer_correlation

    def draw(*shape: int) -> Tensor:
        return torch.empty(*shape, config.hidden).normal_(generator=generator)

    common, own = draw(groups, 1), draw(groups, size)
    for weight in weights:
        weight.copy_((config.router_scale * ((1 - rho) ** 0.5 * own + rho**0.5 * common)).flatten(0, 1))
        order = torch.randperm(groups, generator=generator)
        inside = torch.stack([torch.randperm(size, generator=generator) for _ in range(groups)])
        common = c**0.5 * common[order] + (1 - c) ** 0.5 * draw(groups, 1)
        shuffled = own[order].gather(1, inside.unsqueeze(2).expand(own.shape))
        own = c**0.5 * shuffled + (1 - c) ** 0.5 * draw(groups, size)
