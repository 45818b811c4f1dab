"""Training of a reference model: a fixed number of steps, seeded step by step, resumable at any checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from moesim.errors import InvalidInput, Problem
from moesim.files import whole_file
from moesim.lab.corpus import Corpus, training_batch
from moesim.lab.reference import ReferenceModel

Progress = Callable[[str, int, int], None]  # (what is being done, steps done, steps in all)


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that reports nothing."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train: AdamW, linear warm-up, cosine decay to `final` of the peak learning rate.

    Steps, not seconds, are fixed: a schedule in seconds could not be repeated. sequences x length tokens a step.
    """

    steps: int
    sequences: int = 8
    length: int = 256
    learning_rate: float = 3e-3
    warm_up: int = 30
    final: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, then restore: products this small lose to thread spinning, and threads change bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    model: ReferenceModel,
    corpus: Corpus,
    schedule: Schedule,
    *,
    seed: int,
    shares: Mapping[str, float] | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    checkpoint_every: int = 50,
    progress: Progress = silent,
) -> None:
    """Train `model` in place on random windows of the corpus.

    Batch and noise of a step are drawn from (seed, step) alone, so a run resumed at a checkpoint goes on as if it had
    never stopped. shares: of the domains in the text, None = even. checkpoint: file to resume from and to write;
    removed by nobody here. fingerprint: what the run is; a checkpoint of another run is refused (InvalidInput).
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=schedule.weight_decay, fused=True
    )
    start = 0
    if checkpoint is not None and checkpoint.exists():
        start = load_checkpoint(checkpoint, model, optimiser, fingerprint)
    model.train()
    with one_thread():
        for step in range(start, schedule.steps):
            train_step(model, optimiser, corpus, schedule, step, seed, shares)
            done = step + 1
            if checkpoint is not None and done < schedule.steps and done % checkpoint_every == 0:
                save_checkpoint(checkpoint, model, optimiser, done, fingerprint)
            progress("training", done, schedule.steps)
    model.eval()


def train_step(
    model: ReferenceModel,
    optimiser: torch.optim.Optimizer,
    corpus: Corpus,
    schedule: Schedule,
    step: int,
    seed: int,
    shares: Mapping[str, float] | None,
) -> None:
    """One step of gradient descent, then the routers' own updates (bias, centroids …)."""
    rng = np.random.default_rng((seed, step))
    size = {"sequences": schedule.sequences, "length": schedule.length}
    rows = torch.from_numpy(training_batch(corpus, **size, rng=rng, shares=shares))
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    logits, routings = model(rows[:, :-1], noise)
    balance = sum(routing.loss for layer in routings for routing in layer)
    loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()) + balance
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
    for group in optimiser.param_groups:
        group["lr"] = schedule.rate(step)
    optimiser.step()
    for layer, made in zip(model.moe_layers, routings, strict=True):
        layer.after_step(made, step / schedule.steps)


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, done: int, fingerprint: str
) -> None:
    """Write a checkpoint to a temporary file, then rename it."""
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "done": done, "run": fingerprint}
    with whole_file(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, fingerprint: str) -> int:
    """Restore model and optimiser; steps done. Raises InvalidInput for a damaged file or another run's checkpoint."""
    try:
        state = torch.load(path, weights_only=True)
        found = state["run"]
    except Exception as error:  # torch raises half a dozen unrelated types here
        raise InvalidInput(
            Problem(f"not a readable checkpoint ({type(error).__name__}); delete it to start again", file=str(path))
        ) from None
    if found != fingerprint:
        raise InvalidInput(Problem("is the checkpoint of another run; delete it to start this one", file=str(path)))
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["done"]
