"""Captures: run held-out text through a model and record what its routers choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moesim.lab.reference import ReferenceModel
from moesim.lab.routers import AnyRouting, Routing, SlotRouting
from moesim.lab.training import Progress, one_thread, silent
from moesim.routing.trace import encode_gates, expert_dtype


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """What a forward pass over held-out text gave.

    arrays: as of `Recorder.arrays`. loss: mean cross-entropy of the next token in nats. dropped: share of the routers'
    choices that a capacity dropped.
    """

    arrays: dict[str, np.ndarray | None]
    loss: float
    dropped: float


class Recorder:
    """Collects the routings of all MoE layers, pass by pass, into token-major arrays."""

    def __init__(self, experts: int):
        self.experts = experts
        self.dtype = expert_dtype(experts)
        self.passes: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
        self.drops: list[float] = []

    def add(self, routings: Sequence[AnyRouting]) -> None:
        """Record one forward pass: a routing a layer, all of the same tokens. Slots are recorded as rows of tokens."""
        routings = [routing.rows(self.experts) if isinstance(routing, SlotRouting) else routing for routing in routings]
        self.drops.extend(routing.dropped for routing in routings)
        width = max(routing.ids.shape[1] for routing in routings)
        layers = [valid_first(routing, width) for routing in routings]
        ids, gates = (np.stack([layer[i] for layer in layers], axis=1) for i in (0, 1))
        ragged = any(layer[2] is not None for layer in layers)
        count = None
        if ragged:
            full = np.full(len(ids), width, np.uint8)
            count = np.stack([full if layer[2] is None else layer[2] for layer in layers], axis=1)
        self.passes.append((ids.astype(self.dtype), encode_gates(gates), count))

    def arrays(self) -> dict[str, np.ndarray | None]:
        """ids, gates [token, layer, k] and count [token, layer] or None, as a RouterTrace holds them."""
        width = max(ids.shape[2] for ids, _, _ in self.passes)
        ragged = any(count is not None or ids.shape[2] < width for ids, _, count in self.passes)
        grown = [(_widen(ids, width), _widen(gates, width)) for ids, gates, _ in self.passes]
        arrays: dict[str, np.ndarray | None] = {
            "ids": np.concatenate([ids for ids, _ in grown]),
            "gates": np.concatenate([gates for _, gates in grown]),
            "count": None,
        }
        if ragged:
            counts = (
                np.full(ids.shape[:2], ids.shape[2], np.uint8) if count is None else count
                for ids, _, count in self.passes
            )
            arrays["count"] = np.concatenate(list(counts))
        return arrays


def valid_first(routing: Routing, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(ids, gates [token, width], count [token] or None) with the kept choices of each token in front."""
    ids, gates = routing.ids.numpy(), routing.gates.detach().float().numpy()
    if routing.kept is None and ids.shape[1] == width:
        return ids, gates, None
    kept = np.ones(ids.shape, bool) if routing.kept is None else routing.kept.numpy()
    order = np.argsort(~kept, axis=1, kind="stable")
    ids, gates = np.take_along_axis(ids, order, 1), np.take_along_axis(gates * kept, order, 1)
    return _widen(ids, width), _widen(gates, width), kept.sum(1).astype(np.uint8)


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    """Pad the last axis with zeros."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])])


def capture_sequences(
    model: ReferenceModel, sequences: np.ndarray, *, batch: int = 8, progress: Progress = silent
) -> Captured:
    """Forward held-out sequences [sequence, length + 1] through a trained model, `batch` at a time."""
    recorder = Recorder(model.config.experts)
    losses = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(sequences), batch):
            rows = torch.from_numpy(sequences[start : start + batch])
            noise = torch.Generator().manual_seed(start)
            logits, routings = model(rows[:, :-1], noise)
            losses.append(_sequence_losses(logits, rows[:, 1:]))
            recorder.add([routing for layer in routings for routing in layer])
            progress("capturing", min(start + batch, len(sequences)), len(sequences))
    return Captured(recorder.arrays(), float(torch.cat(losses).mean()), float(np.mean(recorder.drops)))


def _sequence_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each sequence."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).mean(1)
