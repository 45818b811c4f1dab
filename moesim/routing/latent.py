"""A latent-factor model of routing: few parameters, yet tokens that persist in time and across layers.

A token has a latent vector h[l] of d standard normal components at MoE layer l, and an expert a direction u of unit
length; the token chooses the top k of ``u · h[l] + bias``, with biases that give every expert its wanted load.

* Across layers ``h[l] = ρ h[l-1] + √(1 - ρ²) ε[l]``: the vector turns slowly, as a residual stream does, so that the
  choices of a layer foretell those of the next. The fewer dimensions, the more a choice tells about h.
* In time every ε is a sum of independent parts that forget at different speed (`TIME_SCALES`): one is new at each
  token, two are autoregressive, and one is constant along a sequence. Their weights shape the autocorrelation.

It keeps loads, autocorrelation and next-layer dependence. It knows nothing of which experts a domain prefers, of drift
inside a sequence, or of the groups' joint use beyond loads and the group limit.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from moesim.routing.choice import inclusion, steer, top_k
from moesim.routing.health import Moments, moments
from moesim.routing.trace import RouterTrace, expert_dtype

TIME_SCALES = (0.0, 0.5, 0.94, 1.0)  # correlation from token to token of each part; 0.94 lasts some 16 tokens
DIMENSIONS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
_PIECE = 4096  # tokens drawn at once; longer sequences are drawn in pieces that do not remember each other
_STEERED_TOKENS = 8192  # biases are found on about so many of a trace's tokens, and on fewer while fitting
_STEERED_TOKENS_IN_FIT = 2048
_FIT_TOKENS = 2**14
_FIT_LAYERS = 6
_BISECTIONS = 5
_CORRECTIONS = 5
_FIRST_GAIN = 0.4


Simulate = Callable[["LatentModel"], Moments]


@dataclass(frozen=True, slots=True)
class LatentModel:
    """dimension: d. layer_persistence: ρ. time_weights: variance of each part of `TIME_SCALES`; they sum to 1."""

    dimension: int
    layer_persistence: float
    time_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The routers of a model: MoE layers, experts, top-k and groups, of which a token may use `kept_groups`."""

    layers: int
    experts: int
    top_k: int
    groups: int = 1
    kept_groups: int = 1


def draw(
    model: LatentModel,
    load: np.ndarray,
    geometry: Geometry,
    offsets: np.ndarray,
    rng: np.random.Generator,
    steered: int = _STEERED_TOKENS,
) -> np.ndarray:
    """Choices [token, layer, k] for the sequences of `offsets`, with the loads [layer, expert] in expectation.

    steered: number of tokens, spread over the trace, on which the biases are found.
    """
    seed = rng.bit_generator.seed_seq.spawn(1)[0]
    expert_seed, token_seed = seed.spawn(2)
    shape = (geometry.layers, geometry.experts, model.dimension)
    directions = np.random.default_rng(expert_seed).standard_normal(shape, dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    pieces = _pieces(offsets)
    seeds = token_seed.spawn(len(pieces))
    limits = (geometry.top_k, geometry.groups, geometry.kept_groups)

    def latents(piece: int) -> np.ndarray:
        return _latents(model, np.diff(pieces[piece]), geometry.layers, np.random.default_rng(seeds[piece]))

    stride = max(1, int(offsets[-1]) // steered)
    sample = np.concatenate([latents(piece)[::stride] for piece in range(len(pieces))])
    bias = np.empty((geometry.layers, geometry.experts), dtype=np.float32)
    for layer, wanted in enumerate(load):
        scores = sample[:, layer] @ directions[layer].T
        bias[layer] = steer(scores, inclusion(wanted.astype(float), geometry.top_k), *limits)
    ids = np.empty((int(offsets[-1]), geometry.layers, geometry.top_k), dtype=expert_dtype(geometry.experts))
    for number, piece in enumerate(pieces):
        drawn = latents(number)
        for layer in range(geometry.layers):
            scores = drawn[:, layer] @ directions[layer].T + bias[layer]
            ids[piece[0] : piece[-1], layer] = top_k(scores, *limits)
    return ids


def fit(
    wanted: Moments, load: np.ndarray, geometry: Geometry, offsets: np.ndarray, rng: np.random.Generator
) -> LatentModel:
    """The model whose traces have the wanted next-layer hit and autocorrelation, found by simulating some.

    The dimension is the largest that can reach the hit at all (with ρ = 1); ρ is then bisected, and the weights in time
    are least squares on the lags, by how much correlation of choices a correlation of latents gave last time.
    load: [layer, expert]; offsets: sequences of the trace to match. All simulations share their random numbers.
    """
    layers = np.unique(np.linspace(0, geometry.layers - 1, min(geometry.layers, _FIT_LAYERS)).astype(int))
    geometry = dataclasses.replace(geometry, layers=len(layers))
    offsets = offsets[: max(2, np.searchsorted(offsets, _FIT_TOKENS, side="right"))]
    offsets = np.minimum(offsets, _FIT_TOKENS)
    seed = int(rng.integers(2**63))

    def simulate(model: LatentModel) -> Moments:
        ids = draw(model, load[layers], geometry, offsets, np.random.default_rng(seed), _STEERED_TOKENS_IN_FIT)
        return moments(RouterTrace("fit", ids, offsets, geometry.experts), tuple(wanted.autocorrelation))

    model = LatentModel(DIMENSIONS[4], 0.95, _time_weights(wanted.autocorrelation, _FIRST_GAIN))
    if wanted.next_layer_hit is not None and geometry.layers > 1:
        model = _fit_layers(model, wanted.next_layer_hit, simulate)
    return _fit_time(model, wanted.autocorrelation, simulate)


def _fit_layers(model: LatentModel, hit: float, simulate: Simulate) -> LatentModel:
    """Dimension and ρ for a next-layer hit; the hit falls with the dimension and rises with ρ."""

    def reached(**changes) -> float:
        return simulate(dataclasses.replace(model, **changes)).next_layer_hit

    low, high = 0, len(DIMENSIONS)
    while high - low > 1:
        middle = (low + high) // 2
        if reached(dimension=DIMENSIONS[middle], layer_persistence=1.0) >= hit:
            low = middle
        else:
            high = middle
    model = dataclasses.replace(model, dimension=DIMENSIONS[low])
    weak, strong = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (weak + strong) / 2
        if reached(layer_persistence=_persistence(middle)) >= hit:
            strong = middle
        else:
            weak = middle
    return dataclasses.replace(model, layer_persistence=_persistence((weak + strong) / 2))


def _fit_time(model: LatentModel, wanted: Mapping[int, float], simulate: Simulate) -> LatentModel:
    """Weights in time: corrected by what they reached, a few times; the best ones seen."""
    best, least = model, np.inf
    for _ in range(_CORRECTIONS):
        reached = simulate(model)
        error = sum((reached.autocorrelation[lag] - value) ** 2 for lag, value in wanted.items())
        if error < least:
            best, least = model, error
        # Half-way: choices correlate more than in proportion to latents, and whole steps would swing to and fro.
        steps = zip(model.time_weights, _rescaled(model, wanted, reached), strict=True)
        model = dataclasses.replace(model, time_weights=tuple((old + new) / 2 for old, new in steps))
    return best


def _persistence(place: float) -> float:
    """ρ on a scale on which the hit moves evenly: most of its range lies near ρ = 1."""
    return 1 - (1 - place) ** 2


def _time_weights(wanted: Mapping[int, float], gain: float | np.ndarray) -> tuple[float, ...]:
    """Weights of `TIME_SCALES` that bring the wanted lag → autocorrelation of choices nearest.

    gain: correlation of choices for a correlation of latents, [lag] or one for all.
    """
    from scipy.optimize import nnls

    if not wanted:
        return (1.0,) + (0.0,) * (len(TIME_SCALES) - 1)
    latent = np.array(TIME_SCALES[1:]) ** np.array(list(wanted))[:, None]
    weights, _ = nnls(np.broadcast_to(gain, len(wanted))[:, None] * latent, np.array(list(wanted.values())))
    weights /= max(1.0, weights.sum())
    return (max(0.0, 1 - float(weights.sum())), *weights.tolist())


def _rescaled(model: LatentModel, wanted: Mapping[int, float], reached: Moments) -> tuple[float, ...]:
    """Weights corrected by what the last ones reached; a weak correlation of latents shows even weaker in choices."""
    lags = np.array(list(wanted))[:, None]
    latent = (np.array(model.time_weights) * np.array(TIME_SCALES) ** lags).sum(axis=1)
    made = np.array(list(reached.autocorrelation.values()))
    gain = np.divide(made, latent, out=np.full(len(lags), _FIRST_GAIN), where=latent > 0.02)
    return _time_weights(wanted, np.clip(gain, 0.1, 1.0))


def _pieces(offsets: np.ndarray) -> list[np.ndarray]:
    """Offsets of runs of whole sequences of some `_PIECE` tokens, longer sequences cut: each [sequences + 1]."""
    long = [np.arange(start, stop, _PIECE) for start, stop in itertools.pairwise(offsets) if stop - start > _PIECE]
    cuts = np.unique(np.concatenate([offsets, *long]))
    first = np.unique(np.searchsorted(cuts[:-1], np.arange(0, offsets[-1], _PIECE)))
    first = first[first < len(cuts) - 1]  # the last sequence may reach beyond the last whole piece
    return [cuts[start : stop + 1] for start, stop in zip(first, [*first[1:], len(cuts) - 1], strict=True)]


def _latents(model: LatentModel, lengths: np.ndarray, layers: int, rng: np.random.Generator) -> np.ndarray:
    """Latent vectors [token, layer, d] of sequences of these lengths."""
    turn = np.float32(np.sqrt(1 - model.layer_persistence**2))
    latent = np.empty((lengths.sum(), layers, model.dimension), dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for start, stop in itertools.pairwise(starts):
        here = latent[start:stop]
        here[:] = 0
        for scale, weight in zip(TIME_SCALES, model.time_weights, strict=True):
            if weight == 0:
                continue
            part = rng.standard_normal((1 if scale == 1 else len(here), *here.shape[1:]), dtype=np.float32)
            if 0 < scale < 1:
                _autoregress(part, scale)
            here += np.float32(np.sqrt(weight)) * part
    for layer in range(1, layers):
        latent[:, layer] = model.layer_persistence * latent[:, layer - 1] + turn * latent[:, layer]
    return latent


def _autoregress(noise: np.ndarray, scale: float) -> None:
    """Turn standard normal noise [token, …] into the stationary ``y[t] = scale y[t-1] + √(1 - scale²) noise[t]``.

    By doubling: after each pass a token holds its sum over twice as many predecessors, until older ones weigh nothing.
    """
    noise[1:] *= np.float32(np.sqrt(1 - scale**2))
    reach = 1
    while reach < len(noise) and scale**reach > 1e-6:
        noise[reach:] += np.float32(scale**reach) * noise[:-reach]
        reach *= 2
