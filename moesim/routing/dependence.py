"""How choices depend on each other: in time along a sequence, and from one MoE layer to the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.routing.load import choices, windows
from moesim.routing.trace import RouterTrace

_SEGMENT = 2**14  # tokens whose choices stand as bits at once: 256 experts take 4 MB unpacked, near the cache
_LEARNED_TOKENS = 2**15  # tokens that the next-layer statistics look at, evenly taken from the sequences
_SCORED_ENTRIES = 2**19  # (token, expert) entries that are scored per half and layer pair


def autocorrelation(trace: RouterTrace, lags: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Correlation in time, [layer, lag] averaged over experts, and the same weighted by the experts' variance.

    Pearson correlation of an expert's 0/1 choice at tokens t and t + lag of one sequence. Experts that were always or
    never chosen have none and are left out. The plain mean counts cold experts like hot ones; the weighted one is the
    ratio of summed covariances to summed deviations, and varies less from trace to trace.
    """
    reach = max(lags)
    last = np.repeat(trace.offsets[1:], np.diff(trace.offsets)) - np.arange(trace.tokens)  # tokens left in the sequence
    sums = np.zeros((trace.layers, len(lags), 3, trace.experts))  # first member, second member, both
    pairs = np.array([np.count_nonzero(last > lag) for lag in lags], dtype=float)
    for segment in windows(trace.tokens, _SEGMENT):
        size = segment.stop - segment.start
        words = -(-(size + reach) // 64) + 1
        follows = [_pack(last[segment] > lag, words) for lag in lags]
        ahead = slice(segment.start, min(segment.stop + reach, trace.tokens))
        for layer in range(trace.layers):
            bits = _choice_bits(choices(trace, ahead, slice(layer, layer + 1))[:, 0], trace.experts, words)
            for index, lag in enumerate(lags):
                later = _shift(bits, lag) & follows[index]
                sums[layer, index, 0] += _ones(bits & follows[index])
                sums[layer, index, 1] += _ones(later)
                sums[layer, index, 2] += _ones(later & bits)
    means = sums / np.maximum(pairs, 1)[:, None, None]
    first, second, both = means[:, :, 0], means[:, :, 1], means[:, :, 2]
    covariance = both - first * second
    deviation = np.sqrt(first * (1 - first) * second * (1 - second))
    alive = deviation > 0
    ratio = np.divide(covariance, deviation, out=np.zeros_like(covariance), where=alive)
    mean = ratio.sum(axis=-1) / np.maximum(alive.sum(axis=-1), 1)
    total = deviation.sum(axis=-1)
    weighted = np.divide((covariance * alive).sum(axis=-1), total, out=np.zeros_like(total), where=total > 0)
    return mean, weighted


def next_layer_hit(trace: RouterTrace) -> tuple[np.ndarray, np.ndarray]:
    """How well a layer's choices foretell the next layer's: hit share and that of popularity alone, [layer - 1].

    Hit: the share of layer l + 1's choices among the k experts of highest ``sum over e chosen at l of P(e' | e)``, with
    P counted on the other half of the tokens; popularity: its k most loaded experts. The halves are alternate sequences
    (of a single sequence, its two halves), so that both see every domain; each is judged by the other; the mean counts.
    Long traces are judged by a sample of whole sequences.
    """
    halves = _halves(trace)
    hit = np.zeros((2, max(trace.layers - 1, 0)))
    popular = np.zeros_like(hit)
    for side, (learn, judge) in enumerate((halves, halves[::-1])):
        judge = judge[:: -(-len(judge) * trace.experts // _SCORED_ENTRIES)]
        learned, judged = choices(trace, learn), choices(trace, judge)
        for layer in range(trace.layers - 1):
            follow = _transitions(learned[:, layer], learned[:, layer + 1], trace.experts)
            now, then = (_indicators(judged[:, layer + step], trace.experts) for step in (0, 1))
            scores = now @ (follow / np.maximum(follow.sum(axis=1, keepdims=True), 1)).astype(np.float32)
            best = np.argpartition(-scores, trace.top_k - 1, axis=1)[:, : trace.top_k]
            made = max(then.sum(), 1)
            hit[side, layer] = np.take_along_axis(then, best, axis=1).sum() / made
            hottest = np.argsort(-follow.sum(axis=0), kind="stable")[: trace.top_k]
            popular[side, layer] = then[:, hottest].sum() / made
    return hit.mean(axis=0), popular.mean(axis=0)


def _halves(trace: RouterTrace) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of alternate sequences, at most `_LEARNED_TOKENS` of them, evenly along the trace."""
    if trace.sequences == 1:
        tokens = np.arange(min(trace.tokens, _LEARNED_TOKENS))
        return tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]
    lengths = np.diff(trace.offsets)
    kept = np.arange(trace.sequences)
    if trace.tokens > _LEARNED_TOKENS:
        wanted = max(2, _LEARNED_TOKENS * trace.sequences // trace.tokens)
        kept = np.linspace(0, trace.sequences - 1, wanted).astype(int)
        lengths = np.minimum(lengths, 2 * _LEARNED_TOKENS // wanted)  # no single sequence may fill the sample
    tokens = [trace.offsets[sequence] + np.arange(lengths[sequence]) for sequence in kept]
    return np.concatenate(tokens[::2]), np.concatenate(tokens[1::2])


def _transitions(now: np.ndarray, then: np.ndarray, experts: int) -> np.ndarray:
    """Counts [expert, next expert] of pairs of choices [token, k] in consecutive layers."""
    size = experts + 1
    pairs = now[:, :, None].astype(np.int64) * size + then[:, None, :]
    return np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)[:experts, :experts]


def _indicators(ids: np.ndarray, experts: int) -> np.ndarray:
    """0/1 matrix [token, expert] (float32) of choices [token, k]."""
    matrix = np.zeros((len(ids), experts + 1), dtype=np.float32)
    matrix[np.arange(len(ids))[:, None], ids] = 1
    return matrix[:, :experts]


def _choice_bits(ids: np.ndarray, experts: int, words: int) -> np.ndarray:
    """Choices [token, k] as one bit a token: [expert, word] uint64."""
    chosen = np.zeros((experts + 1, words * 64), dtype=np.uint8)
    token = np.arange(len(ids))
    for column in ids.T:
        chosen[column, token] = 1
    return np.packbits(chosen[:experts], axis=1, bitorder="little").view(np.uint64)


def _pack(flags: np.ndarray, words: int) -> np.ndarray:
    """Flags [token] as [word] uint64, zeros behind them."""
    padded = np.zeros(words * 64, dtype=bool)
    padded[: len(flags)] = flags
    return np.packbits(padded, bitorder="little").view(np.uint64)


def _shift(bits: np.ndarray, lag: int) -> np.ndarray:
    """Bit t of the result is bit t + lag of `bits` [..., word]."""
    whole, rest = divmod(lag, 64)
    moved = np.zeros_like(bits)
    words = bits.shape[-1] - whole
    moved[..., :words] = bits[..., whole:] >> np.uint64(rest)
    if rest:
        moved[..., : words - 1] |= bits[..., whole + 1 :] << np.uint64(64 - rest)
    return moved


def _ones(bits: np.ndarray) -> np.ndarray:
    """Number of ones [expert] in bits [expert, word]."""
    return np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)
