"""Which experts are copied ahead of their layer: predictors of the next layer's experts.

A prefetch is a function in `PREFETCHES`; its keyword-only arguments are the keys that a scenario sets under
``offload.prefetch:``. When a layer has routed its tokens, the experts predicted for the next one that are not in HBM
are copied into the staging buffers, the most wanted first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.placement.placement import Placement
from moesim.placement.traffic import choose_slots


@dataclass(frozen=True, slots=True, eq=False)
class Foresight:
    """What a predictor may look at.

    ids: [step, layer, token, k] experts chosen in the replay. learned: [layer, token, k] those of the earlier part of
    the trace. experts: number of routed experts. placement: where they are. rng: for wrong guesses.
    """

    ids: np.ndarray
    learned: np.ndarray
    placement: Placement
    experts: int
    rng: np.random.Generator


def none(foresight: Foresight) -> np.ndarray | None:
    """Copy an expert when a token needs it."""
    return None


def pre_gated(foresight: Foresight, *, accuracy: float = 1.0) -> np.ndarray:
    """The next layer's router runs a layer ahead; accuracy: share of its choices that hold.

    1 is a router trained to choose for the next layer (Pre-gated MoE, Hwang et al. 2024), whose choice *is* the next
    layer's. An untrained one applied early is right in fewer: routes do not tell how many, so a file must. A wrong
    choice is any other expert of the layer. Raises InvalidInput unless accuracy is in [0, 1].
    """
    if not 0 <= accuracy <= 1:
        raise InvalidInput(
            Problem(f"is a share of choices; write a number from 0 to 1, not {accuracy:g}", "prefetch.accuracy")
        )
    ids, rng = foresight.ids, foresight.rng
    wrong = rng.random(ids.shape) >= accuracy
    others = (ids + rng.integers(1, foresight.experts, ids.shape)) % foresight.experts
    return np.where(wrong, others, ids)


def learned(foresight: Foresight) -> np.ndarray:
    """The experts that most often followed those of the layer before, in the earlier part of the trace.

    A token's guesses are the top k of Σ P(expert of this layer | expert of the last one) over its experts there.
    """
    ids, past = foresight.ids, foresight.learned
    top_k = ids.shape[-1]
    guesses = ids.copy()  # the first layer has none before it and is never prefetched
    for layer in range(1, ids.shape[1]):
        follows = transitions(past[layer - 1], past[layer], foresight.experts)
        score = follows[ids[:, layer - 1]].sum(axis=-2)  # [step, token, expert]
        guesses[:, layer] = np.argsort(-score, axis=-1, kind="stable")[..., :top_k]
    return guesses


# Each returns guesses [step, layer, token, k] of the experts of each layer (the first layer's are not used), or None.
PREFETCHES: dict[str, Callable[..., np.ndarray | None]] = {"none": none, "pre_gated": pre_gated, "learned": learned}


def transitions(before: np.ndarray, after: np.ndarray, experts: int) -> np.ndarray:
    """P(expert of a layer | expert of the layer before) [before, after] from chosen experts [token, k] of both.

    One pseudo-count, spread like the experts of the layer as a whole, stands in for what was never seen.
    """
    count = np.zeros((experts, experts))
    pairs = before[:, :, None].astype(np.int64) * experts + after[:, None, :]
    count += np.bincount(pairs.ravel(), minlength=experts * experts).reshape(experts, experts)
    popular = np.bincount(after.ravel(), minlength=experts) / max(after.size, 1)
    count += popular
    return count / np.maximum(count.sum(axis=1, keepdims=True), 1e-300)


def recall(ids: np.ndarray, guesses: np.ndarray) -> float:
    """Share of choices [step, layer, token, k] that were guessed, over all layers but the first."""
    if ids.shape[1] < 2:
        return 0.0
    right = (ids[:, 1:, :, :, None] == guesses[:, 1:, :, None, :]).any(axis=-1)
    return float(right.mean())


def wanted(placement: Placement, guesses: np.ndarray) -> np.ndarray:
    """Tokens [step, layer, rank, slot] that want each expert, by guesses [step, layer, token, k]."""
    steps, layers = guesses.shape[:2]
    slots = placement.ranks * placement.slots_per_rank
    count = np.empty((steps, layers, slots), dtype=np.int64)
    for step in range(steps):
        for layer in range(layers):
            chosen = choose_slots(placement, layer, guesses[step, layer])
            count[step, layer] = np.bincount(chosen.ravel(), minlength=slots)
    return count.reshape(steps, layers, placement.ranks, placement.slots_per_rank)
