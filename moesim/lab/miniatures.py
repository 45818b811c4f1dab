"""Miniatures: reference models with the router geometry of a real one, trained in minutes, and their captures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from moesim.errors import InvalidInput, Problem
from moesim.lab.capture import capture_sequences
from moesim.lab.corpus import Corpus, held_out_sequences, load_corpus
from moesim.lab.reference import ReferenceConfig, ReferenceModel
from moesim.lab.training import Progress, Schedule, silent, train
from moesim.model.architecture import MoEModel
from moesim.routing.trace import RouterTrace, write_trace


@dataclass(frozen=True, slots=True)
class Miniature:
    """What to train and capture. imitates: the models whose routing geometry it has. note: priors put into it."""

    name: str
    imitates: str
    config: ReferenceConfig
    schedule: Schedule
    setting: str
    note: str
    tokens_per_domain: int = 3840


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


def capture_miniature(
    miniature: str | Miniature, out: str | Path, *, rng_seed: int = 0, progress: Progress = silent
) -> Path:
    """Train a miniature on the shipped text and write the routing of held-out text to `out`.

    miniature: the name of a shipped one, or what `miniature_of` made of a model. Needs one to four CPU-minutes.
    Interrupted, it resumes from ``OUT.checkpoint`` when started again with the same arguments, and refuses the
    checkpoint of another run. Raises InvalidInput for an unknown name.
    """
    if isinstance(miniature, str):
        if miniature not in MINIATURES:
            known = ", ".join(MINIATURES)
            raise InvalidInput(Problem(f"no miniature {miniature!r}; write one of {known}", "miniature"))
        miniature = MINIATURES[miniature]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    trace = trace_of_miniature(miniature, load_corpus(), rng_seed=rng_seed, checkpoint=checkpoint, progress=progress)
    write_trace(out, trace)
    checkpoint.unlink(missing_ok=True)
    return out


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
    return Miniature(
        name=f"{model.name}-miniature",
        imitates=f"{model.title}: {experts.routed} experts, top-{experts.top_k}, {gate}",
        config=config,
        schedule=Schedule(steps=steps),
        setting=f"{router}: {', '.join(f'{name} {value}' for name, value in options.items())}",
        note=f"priors at the start: {', '.join(f'{name} {value}' for name, value in priors.items())}",
    )


def remake_shipped(out_dir: str | Path, progress: Progress = silent) -> list[Path]:
    """Train all shipped miniatures and write their captures into a directory (what ``make capture`` does)."""
    return [capture_miniature(name, Path(out_dir) / f"{name}.safetensors", progress=progress) for name in MINIATURES]


def trace_of_miniature(
    miniature: Miniature,
    corpus: Corpus,
    *,
    rng_seed: int,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> RouterTrace:
    """Train, then capture: the whole of `capture_miniature` but the files of the trace."""
    described = describe(miniature, corpus, rng_seed)
    model = ReferenceModel(miniature.config, torch.Generator().manual_seed(rng_seed))
    train(
        model,
        corpus,
        miniature.schedule,
        seed=rng_seed,
        checkpoint=checkpoint,
        fingerprint=json.dumps(described, sort_keys=True),
        progress=lambda stage, done, total: progress(f"{stage} {miniature.name}", done, total),
    )
    length = miniature.schedule.length
    sequences, labels = held_out_sequences(corpus, length=length, tokens_per_domain=miniature.tokens_per_domain)
    captured = capture_sequences(model, sequences, progress=progress)
    return RouterTrace(
        name=miniature.name,
        offsets=length * np.arange(len(sequences) + 1),
        experts=miniature.config.experts,
        groups=miniature.config.groups,
        labels=labels,
        source=f"forward pass of a miniature with the routing geometry of {miniature.imitates}",
        metadata=described | {"held_out_cross_entropy_nats": round(captured.loss, 4)},
        **captured.arrays,
    )


def describe(miniature: Miniature, corpus: Corpus, rng_seed: int) -> dict[str, object]:
    """What a trace header says of its making; also the identity of the training run."""
    return {
        "miniature": miniature.name,
        "setting": miniature.setting,
        "note": miniature.note,
        "text_sha256": corpus.digest,
        "seed": rng_seed,
        "config": describe_config(miniature.config),
        "schedule": asdict(miniature.schedule),
        "tokens_per_domain": miniature.tokens_per_domain,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }


def describe_config(config: ReferenceConfig) -> dict[str, object]:
    """A configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config)))
