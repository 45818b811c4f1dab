"""Captures of miniatures: train on the shipped text, run held-out text through, write what the routers chose."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from moesim.errors import InvalidInput, Problem
from moesim.lab.capture import capture_sequences
from moesim.lab.corpus import Corpus, held_out_sequences, load_corpus
from moesim.lab.geometries import MINIATURES, Miniature, miniature_of, with_other_router
from moesim.lab.reference import ReferenceConfig, ReferenceModel
from moesim.lab.router_settings import choice_by
from moesim.lab.training import Progress, silent, train
from moesim.routing.trace import RouterTrace, write_trace

__all__ = ["MINIATURES", "Miniature", "capture_miniature", "miniature_of", "remake_shipped", "trace_of_miniature"]


def capture_miniature(
    miniature: str | Miniature,
    out: str | Path,
    *,
    router: str | None = None,
    token_ids: bool = False,
    rng_seed: int = 0,
    progress: Progress = silent,
) -> Path:
    """Train a miniature on the shipped text and write the routing of held-out text to `out`.

    miniature: the name of a shipped one, or what `miniature_of` made of a model. router: another router for it, one of
    `ROUTERS`. token_ids: record the vocabulary ids too, by which caches of routes can be keyed. Needs one to four
    CPU-minutes.
    Interrupted, it resumes from ``OUT.checkpoint`` when started again with the same arguments, and refuses the
    checkpoint of another run. Raises InvalidInput for an unknown name.
    """
    if isinstance(miniature, str):
        if miniature not in MINIATURES:
            known = ", ".join(MINIATURES)
            raise InvalidInput(Problem(f"no miniature {miniature!r}; write one of {known}", "miniature"))
        miniature = MINIATURES[miniature]
    if router is not None:
        miniature = with_other_router(miniature, router)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    trace = trace_of_miniature(
        miniature, load_corpus(), token_ids=token_ids, rng_seed=rng_seed, checkpoint=checkpoint, progress=progress
    )
    write_trace(out, trace)
    checkpoint.unlink(missing_ok=True)
    return out


def remake_shipped(out_dir: str | Path, progress: Progress = silent) -> list[Path]:
    """Train all shipped miniatures and write their captures into a directory (what ``make capture`` does)."""
    return [capture_miniature(name, Path(out_dir) / f"{name}.safetensors", progress=progress) for name in MINIATURES]


def trace_of_miniature(
    miniature: Miniature,
    corpus: Corpus,
    *,
    rng_seed: int,
    token_ids: bool = False,
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
        shares=miniature.shares,
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
        metadata=described
        | {"choice_by": choice_by(miniature.config.router)}
        | {"held_out_cross_entropy_nats": round(captured.loss, 4)},
        token_ids=sequences[:, :-1].ravel() if token_ids else None,
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
        "shares": None if miniature.shares is None else dict(miniature.shares),
        "tokens_per_domain": miniature.tokens_per_domain,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
    }


def describe_config(config: ReferenceConfig) -> dict[str, object]:
    """A configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config)))
