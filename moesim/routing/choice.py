"""Top-k choices that come out with a wanted load: scores, group limits and the biases that steer them."""

from __future__ import annotations

import numpy as np

_HIGHEST_INCLUSION = 0.995  # an expert that every token chose would need an infinite bias
_ROUNDS = 20
_MISPLACED = 0.01  # part of all choices that may still go to a wrong expert when steering stops
_SAME_ORDER = 16


def top_k(scores: np.ndarray, k: int, groups: int = 1, kept_groups: int = 1) -> np.ndarray:
    """The k experts of highest score, [token, k] in no order, of scores [token, expert].

    With groups, only the experts of the `kept_groups` groups whose two best scores sum highest may be chosen
    (DeepSeek-V3 report, section 2.1.2).
    """
    if kept_groups >= groups:
        return np.argpartition(-scores, k - 1, axis=1)[:, :k]
    size = scores.shape[1] // groups
    by_group = scores.reshape(len(scores), groups, size)
    best = np.partition(by_group, size - min(2, size), axis=2)[:, :, -2:].sum(axis=2)
    kept = np.argpartition(-best, kept_groups - 1, axis=1)[:, :kept_groups]
    allowed = by_group[np.arange(len(scores))[:, None], kept].reshape(len(scores), -1)
    group, place = np.divmod(np.argpartition(-allowed, k - 1, axis=1)[:, :k], size)
    return np.take_along_axis(kept, group, axis=1) * size + place


def inclusion(load: np.ndarray, k: int) -> np.ndarray:
    """Share of the tokens that choose each expert, [expert], summing to k and in the ratio of load [expert].

    Where the ratio would ask an expert to be chosen by more than all tokens, the excess goes to the others.
    """
    share = load * (k / load.sum())
    for _ in range(len(load)):
        full = share >= _HIGHEST_INCLUSION
        share[full] = _HIGHEST_INCLUSION
        missing = k - share.sum()
        if missing <= 1e-9 or full.all():
            break
        room = share[~full]
        share[~full] = room * (1 + missing / room.sum()) if room.sum() > 0 else missing / len(room)
    return share


def steer(scores: np.ndarray, wanted: np.ndarray, k: int, groups: int = 1, kept_groups: int = 1) -> np.ndarray:
    """Biases [expert] that make top-k of ``scores + bias`` choose each expert in a wanted share of the tokens.

    scores: [token, expert], roughly standard normal per expert; wanted: [expert] as `inclusion` gives it. For normal
    scores and a fixed threshold an expert with bias b is chosen with probability Φ(b - threshold), so that
    ``Φ⁻¹(wanted)`` is nearly right at once, and the same rule corrects it a few times.
    """
    from scipy.special import ndtri

    least = 0.25 / len(scores)
    goal = ndtri(np.clip(wanted, least, 1 - least))
    bias, step = goal.copy(), 0.5
    best, least_misplaced = bias, np.inf
    for _ in range(_ROUNDS):
        chosen = top_k(scores + bias.astype(scores.dtype), k, groups, kept_groups)
        share = np.bincount(chosen.ravel(), minlength=len(wanted)) / len(scores)
        misplaced = np.abs(share - wanted).sum() / k
        if misplaced < least_misplaced:
            best, least_misplaced = bias, misplaced
        else:
            step *= 0.7  # few latent dimensions tie experts to each other, and long steps overshoot
        if misplaced <= _MISPLACED:
            break
        bias = bias + step * (goal - ndtri(np.clip(share, least, 1 - least)))
    return best.astype(scores.dtype)


def draw_independent(load: np.ndarray, k: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Choices [token, layer, k] of tokens that know nothing of each other, with inclusion in the ratio of load.

    load: [layer, expert]. Systematic sampling (Madow 1949): inclusion probabilities, laid end to end, are hit at u,
    u + 1 … u + k - 1, which gives k different experts with exactly the wanted probabilities. The experts are laid in
    another random order for every `_SAME_ORDER` tokens, lest neighbours in the order never be chosen together.
    """
    layers, experts = load.shape
    blocks = -(-tokens // _SAME_ORDER)
    ids = np.empty((tokens, layers, k), dtype=np.uint8 if experts <= 256 else np.uint16)
    for layer in range(layers):
        share = inclusion(load[layer].astype(float), k)
        order = rng.permuted(np.broadcast_to(np.arange(experts), (blocks, experts)), axis=1)
        ends = np.cumsum(share[order], axis=1)
        ends[:, -1] = k
        ends += k * np.arange(blocks)[:, None]
        hits = rng.random((blocks, _SAME_ORDER, 1)) + np.arange(k) + k * np.arange(blocks)[:, None, None]
        found = np.searchsorted(ends.ravel(), hits.ravel(), side="right")
        ids[:, layer] = order.ravel()[found].reshape(-1, k)[:tokens]
    return ids
