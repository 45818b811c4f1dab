"""Miniatures: reference models with the router geometry of a real one, narrow enough to train in minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.lab.reference import ReferenceConfig
from moesim.lab.router_settings import with_router
from moesim.lab.training import Schedule
from moesim.model.architecture import MoEModel


@dataclass(frozen=True, slots=True)
class Miniature:
    """What to train and capture.

    imitates: the models whose routing geometry it has. setting: balance. note: priors put into it. shares: of the
    domains in its training text, None = even; the capture holds all domains evenly.
    """

    name: str
    imitates: str
    config: ReferenceConfig
    schedule: Schedule
    setting: str
    note: str
    tokens_per_domain: int = 3840
    shares: Mapping[str, float] | None = None


# A training mixture is not what a cluster serves. Balancing evens the load over the training mixture, so traffic with
# other shares is skewed; a capture in the training shares would be unrealistically even.
MOSTLY_CODE = {
    "api": 0.08,
    "cpp": 0.25,
    "disassembly": 0.06,
    "docstrings": 0.15,
    "javascript": 0.15,
    "licences": 0.03,
    "prose": 0.03,
    "python": 0.25,
}
_NARROW = {"vocabulary": 2048, "hidden": 96, "heads": 3}

_ALL = (
    Miniature(
        name="deepseek-v3-miniature",
        imitates="DeepSeek-V3/R1: 256 experts, top-8, 8 groups of which 4 are kept, sigmoid gate, bias balancing",
        config=ReferenceConfig(
            **_NARROW,
            dense_layers=1,
            moe_layers=3,
            experts=256,
            top_k=8,
            expert_ffn=16,
            shared_ffn=16,
            dense_ffn=192,
            router="group_limited",
            router_options={"sequence_weight": 0.0007},
            router_scale=0.15,
            groups=8,
            group_correlation=0.8,
            layer_correlation=0.6,
            conv=8,
            conv_scale=1.0,
        ),
        schedule=Schedule(steps=500),
        setting="bias speed .01 to .001, sequence-wise loss .0007 (between loose and medium balance)",
        note="router rows start with .8 of their variance common to a group and .6 from the layer below; "
        "a convolution over 8 tokens",
        shares=MOSTLY_CODE,
    ),
    Miniature(
        name="qwen3-miniature",
        imitates="Qwen3-30B-A3B, Qwen3-235B-A22B: 128 experts, top-8, softmax gate, auxiliary loss",
        config=ReferenceConfig(
            **_NARROW,
            dense_layers=0,
            moe_layers=4,
            experts=128,
            top_k=8,
            expert_ffn=16,
            shared_ffn=0,
            dense_ffn=0,
            router="topk_softmax",
            router_options={"aux_weight": 0.05},
            conv=8,
            conv_scale=0.6,
        ),
        schedule=Schedule(steps=400),
        setting="auxiliary loss .05",
        note="a convolution over 8 tokens",
        shares=MOSTLY_CODE,
    ),
    Miniature(
        name="mixtral-miniature",
        imitates="Mixtral 8x7B, 8x22B: 8 experts, top-2, softmax gate, auxiliary loss",
        config=ReferenceConfig(
            **_NARROW,
            dense_layers=0,
            moe_layers=4,
            experts=8,
            top_k=2,
            expert_ffn=64,
            shared_ffn=0,
            dense_ffn=0,
            router="topk_softmax",
            router_options={"aux_weight": 0.02, "sequence_weight": 0.2},
            conv=8,
            conv_scale=0.4,
        ),
        schedule=Schedule(steps=300),
        setting="auxiliary loss .02, sequence-wise .2",
        note="a convolution over 8 tokens",
    ),
)
MINIATURES: Mapping[str, Miniature] = {miniature.name: miniature for miniature in _ALL}


def miniature_of(model: MoEModel) -> Miniature:
    """The miniature with the router geometry of any model: experts, top-k, groups and gate are the model's.

    Balance and priors are those of the shipped miniature with the same kind of gate; the balance losses of the papers
    would collapse so short a training. Raises InvalidInput for a model without experts.
    """
    if not model.moe_layers:
        raise InvalidInput(Problem(f"{model.name} has no routed experts; a dense model needs no trace", "model"))
    first = model.moe_layers[0]
    experts = model.layers[first].experts
    assert experts is not None
    options: dict[str, object] = {"renormalise": experts.top_k > 1}  # a single renormalised gate would always be 1
    if experts.groups > 1:
        options |= {"groups": experts.groups, "kept_groups": experts.kept_groups}
    if experts.score == "sigmoid":
        router, steps = "sigmoid_bias", 500
        options |= {"sequence_weight": 0.0007}
        priors = {"router_scale": 0.15, "layer_correlation": 0.6, "conv_scale": 1.0}
        if experts.groups > 1:
            priors["group_correlation"] = 0.8
    elif experts.routed >= 32:
        router, steps, priors = "topk_softmax", 400, {"conv_scale": 0.6}
        options |= {"aux_weight": 0.05}
    else:
        router, steps, priors = "topk_softmax", 300, {"conv_scale": 0.4}
        options |= {"aux_weight": 0.02, "sequence_weight": 0.2}
    config = ReferenceConfig(
        **_NARROW,
        dense_layers=min(first, 1),
        moe_layers=min(len(model.moe_layers), 3),
        experts=experts.routed,
        top_k=experts.top_k,
        expert_ffn=int(np.clip(4096 // experts.routed // 8 * 8, 8, 64)),
        shared_ffn=16 if experts.shared_ffn else 0,
        dense_ffn=192,
        router=router,
        router_options=options,
        groups=experts.groups,
        conv=8,
        **priors,
    )
    gate = f"{experts.score} gate" + (
        f", {experts.kept_groups} of {experts.groups} groups" if experts.groups > 1 else ""
    )
    few = experts.score != "sigmoid" and experts.routed < 32
    return Miniature(
        name=f"{model.name}-miniature",
        imitates=f"{model.title}: {experts.routed} experts, top-{experts.top_k}, {gate}",
        config=config,
        schedule=Schedule(steps=steps),
        setting=f"{router}: {', '.join(f'{name} {value}' for name, value in options.items())}",
        note=f"priors at the start: {', '.join(f'{name} {value}' for name, value in priors.items())}",
        shares=None if few else MOSTLY_CODE,
    )


def with_other_router(miniature: Miniature, router: str) -> Miniature:
    """The same miniature with another router, of the same total and active parameters."""
    return dataclasses.replace(
        miniature,
        name=f"{miniature.name}-{router}",
        imitates=f"{miniature.imitates}; but with the router {router}",
        config=with_router(miniature.config, router),
        setting=f"router {router}",
    )
