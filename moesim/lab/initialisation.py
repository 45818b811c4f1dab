"""How the weights of a reference model start, the priors of its routers among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from moesim.lab.reference import ReferenceConfig


@torch.no_grad()
def initialise(model: nn.Module, config: ReferenceConfig, generator: torch.Generator) -> None:
    """Draw all weights of a reference model from `generator`.

    Normal with std fan_in^-1/2 (projections back into the residual stream x .4), embedding .02, routers as configured.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "router.scale")):
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
        weights = (getattr(layer.router, "weight", None) for layer in model.moe_layers)
        initialise_routers([weight for weight in weights if weight is not None], config, generator)


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
