"""The training half of ``moesim compare-routers``: every router on the same text, steps and parameters, then a capture.

All models have the same total and the same active expert parameters: a router that by definition takes fewer experts
(Switch 1, GShard 2) gets proportionally fewer and wider ones. `RouterRun.experts`, `top_k` and `width` say what its
capture must be simulated as.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from moesim.errors import InvalidInput, Problem
from moesim.lab.capture import capture_sequences
from moesim.lab.corpus import Corpus, held_out_sequences, load_corpus
from moesim.lab.reference import ReferenceConfig, ReferenceModel
from moesim.lab.router_settings import choice_by, with_router
from moesim.lab.routers import ROUTERS, ChainRouter
from moesim.lab.training import Progress, Schedule, silent, train
from moesim.routing.health import Moments, moments
from moesim.routing.trace import RouterTrace, open_trace, write_trace

NARROWEST = 16  # inner width of an expert of the routers that take any number


@dataclass(frozen=True, slots=True, eq=False)
class RouterRun:
    """One router after training.

    trace: its capture of held-out text. held_out_loss: nats per token. dropped: share of the choices that its capacity
    dropped on held-out text. moments: of the trace. experts, top_k: geometry of one pass of a layer, as the trace has
    it (top_k is the most that a token takes where the number varies). passes: dispatches a layer makes, each a layer of
    the trace. width: of an expert, 1 = that of a router that takes any number. parameters: of the whole model.
    """

    router: str
    trace: RouterTrace
    held_out_loss: float
    dropped: float
    moments: Moments
    experts: int
    top_k: int
    width: int
    passes: int
    parameters: int


def train_routers(
    names: Sequence[str] = tuple(ROUTERS),
    *,
    experts: int = 64,
    top_k: int = 8,
    steps: int = 200,
    tokens_per_domain: int = 2048,
    rng_seed: int = 0,
    shares: Mapping[str, float] | None = None,
    folder: str | Path | None = None,
    corpus: Corpus | None = None,
    progress: Progress = silent,
) -> list[RouterRun]:
    """Train and capture each router in turn, about a CPU-minute each at 200 steps.

    experts, top_k: of the routers that take any. shares: of the domains in the training text (captures hold them
    evenly), for instance `moesim.lab.geometries.MOSTLY_CODE`, which gives the captures served traffic's skew; None =
    even, so that the captures are as balanced as the training. folder: where each capture is written once it is done,
    and found again by the next call with the same arguments. corpus: other text than the shipped one. Raises
    InvalidInput for unknown names, all at once.
    """
    if unknown := [name for name in names if name not in ROUTERS]:
        known = ", ".join(ROUTERS)
        raise InvalidInput([Problem(f"no router {name!r}; write one of {known}", "routers") for name in unknown])
    corpus = corpus or load_corpus()
    runs = []
    for name in names:
        config = config_of(name, corpus.vocabulary, experts, top_k)
        described = describe(config, corpus, Schedule(steps=steps), tokens_per_domain, rng_seed, shares)
        path = None if folder is None else Path(folder) / f"{name}.safetensors"
        trace = None if path is None else find_trace(path, described)
        if trace is None:
            trace = trace_of_router(
                config,
                corpus,
                Schedule(steps=steps),
                described,
                progress=lambda stage, done, total, name=name: progress(f"{stage} {name}", done, total),
            )
            if path is not None:
                write_trace(path, trace)
        runs.append(run_of_trace(trace))
    return runs


def config_of(name: str, vocabulary: int, experts: int, top_k: int) -> ReferenceConfig:
    """The model that a router is compared in: one dense layer, then three routed ones with a shared expert."""
    plain = ReferenceConfig(
        vocabulary=vocabulary,
        hidden=96,
        heads=3,
        dense_layers=1,
        moe_layers=3,
        experts=experts,
        top_k=top_k,
        expert_ffn=NARROWEST,
        shared_ffn=16,
        dense_ffn=192,
        router=name,
    )
    return with_router(plain, name)


def describe(
    config: ReferenceConfig,
    corpus: Corpus,
    schedule: Schedule,
    tokens_per_domain: int,
    rng_seed: int,
    shares: Mapping[str, float] | None = None,
) -> dict[str, object]:
    """What fixes a run: the same description, the same training."""
    described = {
        "text_sha256": corpus.digest,
        "seed": rng_seed,
        "config": asdict(config),
        "schedule": asdict(schedule),
        "tokens_per_domain": tokens_per_domain,
        "shares": shares,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }
    return json.loads(json.dumps(described))


def find_trace(path: Path, described: Mapping[str, object]) -> RouterTrace | None:
    """The capture at `path` if it is of the run described, else None."""
    if not path.exists():
        return None
    trace = open_trace(path)
    return trace if all(trace.metadata.get(key) == value for key, value in described.items()) else None


def trace_of_router(
    config: ReferenceConfig,
    corpus: Corpus,
    schedule: Schedule,
    described: Mapping[str, object],
    *,
    progress: Progress = silent,
) -> RouterTrace:
    """Train one model as described and capture it."""
    model = ReferenceModel(config, torch.Generator().manual_seed(described["seed"]))
    train(model, corpus, schedule, seed=described["seed"], shares=described["shares"], progress=progress)
    sequences, labels = held_out_sequences(
        corpus, length=schedule.length, tokens_per_domain=described["tokens_per_domain"]
    )
    # Soft MoE and Expert Choice mix the sequences of a batch, so all captures come in whole batches.
    whole = len(sequences) // schedule.sequences * schedule.sequences
    if not whole:
        raise InvalidInput(Problem(f"the held-out text gives no batch of {schedule.sequences} sequences", "corpus"))
    captured = capture_sequences(model, sequences[:whole], batch=schedule.sequences, progress=progress)
    router = model.moe_layers[0].router
    return RouterTrace(
        name=config.router,
        offsets=schedule.length * np.arange(whole + 1),
        experts=config.experts,
        groups=getattr(router, "groups", 1),
        labels=labels[:whole],
        source=f"forward pass of a reference model trained with the router {config.router}",
        metadata={
            **described,
            "choice_by": choice_by(config.router),
            "passes": len(router.passes) if isinstance(router, ChainRouter) else 1,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "held_out_cross_entropy_nats": captured.loss,
            "dropped": captured.dropped,
        },
        **captured.arrays,
    )


def run_of_trace(trace: RouterTrace) -> RouterRun:
    """What a capture of `trace_of_router` says of its router."""
    about = trace.metadata
    config = about["config"]
    return RouterRun(
        router=config["router"],
        trace=trace,
        held_out_loss=about["held_out_cross_entropy_nats"],
        dropped=about["dropped"],
        moments=moments(trace),
        experts=config["experts"],
        top_k=trace.top_k,
        width=config["expert_ffn"] // NARROWEST,
        passes=about["passes"],
        parameters=about["parameters"],
    )
