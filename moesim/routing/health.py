"""Health of a trace: how uneven, how persistent and how predictable its routing is, and what that means.

All moments are taken per MoE layer and then averaged over layers; ranks hold contiguous experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.routing import load as loads
from moesim.routing.dependence import autocorrelation, next_layer_hit
from moesim.routing.trace import RouterTrace, decode_gates

LAGS = (1, 4, 16, 64)
RANKS = (2, 4, 8, 16, 32, 64, 128, 256)
CAPACITY_FACTORS = (1.0, 1.25, 1.5, 2.0)
DRIFT_PARTS = 4


@dataclass(frozen=True, slots=True)
class Moments:
    """The figures that traces are compared by, means over layers.

    max_over_mean, gini, entropy_ratio: of the load over experts. active: share of experts chosen at all.
    utilisation: mean over hottest load, the share of expert time in use when all wait for the hottest one.
    hottest_rank: ranks → load of the hottest rank over the mean rank.
    group_correlation: `moesim.routing.load.group_correlation`, None without groups.
    autocorrelation, autocorrelation_weighted: lag → `moesim.routing.dependence.autocorrelation`.
    next_layer_hit, next_layer_popularity: `moesim.routing.dependence.next_layer_hit`, None for one layer.
    The last four are None where only loads are known.
    """

    max_over_mean: float
    gini: float
    entropy_ratio: float
    active: float
    utilisation: float
    hottest_rank: Mapping[int, float]
    group_correlation: float | None
    autocorrelation: Mapping[int, float] | None = None
    autocorrelation_weighted: Mapping[int, float] | None = None
    next_layer_hit: float | None = None
    next_layer_popularity: float | None = None

    def as_json(self) -> dict:
        """The moments as JSON takes them: keys as text."""
        return {
            name: {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Health:
    """Everything `moesim trace` shows of one trace.

    load: [layer, expert] tokens. top_share: [layer] share of tokens that chose the layer's hottest expert.
    active: [layer] share of experts chosen at all. choices_per_token: [layer] mean number of experts a token chose.
    drops: capacity factor → share of choices beyond capacity, in batches of `moesim.routing.load.WINDOW_TOKENS`.
    confidence: mean share of the top choice in a row's gate weights; None without gates.
    drift: load correlation between the first and the last quarter of the tokens; None for a short trace.
    label_load: label → [layer, expert]. label_correlation: mean load correlation over pairs of labels, None for one.
    """

    name: str
    synthetic: bool
    tokens: int
    layers: int
    experts: int
    top_k: int
    groups: int
    moments: Moments
    load: np.ndarray
    top_share: np.ndarray
    active: np.ndarray
    choices_per_token: np.ndarray
    drops: Mapping[float, float]
    confidence: float | None
    drift: float | None
    label_load: Mapping[str, np.ndarray]
    label_correlation: float | None


def moments(trace: RouterTrace, lags: Sequence[int] = LAGS) -> Moments:
    """Moments of a trace."""
    return _dependence_moments(trace, load_moments(loads.expert_load(trace), trace.groups), lags)


def load_moments(load: np.ndarray, groups: int = 1) -> Moments:
    """Moments of a load table [layer, expert]; those of time and layers are None."""
    experts = load.shape[-1]
    ratio = loads.max_over_mean(load)
    return Moments(
        max_over_mean=float(ratio.mean()),
        gini=float(loads.gini(load).mean()),
        entropy_ratio=float(loads.entropy_ratio(load).mean()),
        active=float((load > 0).mean()),
        utilisation=float((1 / ratio).mean()),
        hottest_rank={ranks: float(loads.hottest_rank(load, ranks).mean()) for ranks in RANKS if ranks <= experts},
        group_correlation=float(loads.group_correlation(load, groups).mean()) if 1 < groups < experts else None,
    )


def health(trace: RouterTrace) -> Health:
    """Examine a trace. Reads it in windows: memory does not grow with its length."""
    names = tuple(dict.fromkeys(trace.labels)) or ("all",)
    quarter = np.minimum(np.arange(trace.tokens) * DRIFT_PARTS // max(trace.tokens, 1), DRIFT_PARTS - 1)
    label = [names.index(name) for name in trace.labels] if trace.labels else np.zeros(trace.sequences, int)
    part = quarter * len(names) + np.repeat(label, np.diff(trace.offsets))
    counted = np.zeros((DRIFT_PARTS * len(names), trace.layers, trace.experts), dtype=np.int64)
    dropped = np.zeros((len(CAPACITY_FACTORS), 2))
    for window in loads.windows(trace.tokens):
        seen = loads.count_choices(loads.choices(trace, window), trace.experts, part[window], len(counted))
        counted += seen
        batch = seen.sum(axis=0)
        made = batch.sum(axis=1)
        for index, factor in enumerate(CAPACITY_FACTORS):
            dropped[index] += (loads.drop_share(batch, factor)[made > 0] @ made[made > 0], made.sum())
    counted = counted.reshape(DRIFT_PARTS, len(names), trace.layers, trace.experts)
    load = counted.sum(axis=(0, 1))
    quarters = counted.sum(axis=1)
    by_label = counted.sum(axis=0)
    return Health(
        name=trace.name,
        synthetic=trace.synthetic,
        tokens=trace.tokens,
        layers=trace.layers,
        experts=trace.experts,
        top_k=trace.top_k,
        groups=trace.groups,
        moments=_dependence_moments(trace, load_moments(load, trace.groups), LAGS),
        load=load,
        top_share=load.max(axis=1) / trace.tokens,
        active=(load > 0).mean(axis=1),
        choices_per_token=load.sum(axis=1) / trace.tokens,
        drops=dict(zip(CAPACITY_FACTORS, (dropped[:, 0] / dropped[:, 1]).tolist(), strict=True)),
        confidence=_confidence(trace),
        drift=_mean_correlation(quarters[[0, -1]]) if trace.tokens >= 16 * trace.experts else None,
        label_load=dict(zip(names, by_label, strict=True)) if trace.labels else {},
        label_correlation=_mean_correlation(by_label) if len(names) > 1 else None,
    )


def _dependence_moments(trace: RouterTrace, known: Moments, lags: Sequence[int]) -> Moments:
    longest = int(np.diff(trace.offsets).max())
    lags = [lag for lag in lags if lag < longest]
    mean, weighted = autocorrelation(trace, lags) if lags else (np.zeros((1, 0)),) * 2
    hit, popularity = next_layer_hit(trace)
    return dataclasses.replace(
        known,
        autocorrelation=dict(zip(lags, mean.mean(axis=0).tolist(), strict=True)),
        autocorrelation_weighted=dict(zip(lags, weighted.mean(axis=0).tolist(), strict=True)),
        next_layer_hit=float(hit.mean()) if len(hit) else None,
        next_layer_popularity=float(popularity.mean()) if len(popularity) else None,
    )


def _confidence(trace: RouterTrace) -> float | None:
    """Mean share of a row's top gate weight. Each row counts the same; rows without weight do not count."""
    if trace.gates is None:
        return None
    total, rows = 0.0, 0
    for window in loads.windows(trace.tokens):
        planes = np.ascontiguousarray(
            trace.gates[window].transpose(2, 0, 1)
        )  # k planes: reductions run at memory speed
        if trace.count is not None:
            planes = planes * (np.arange(trace.top_k)[:, None, None] < trace.count[window])
        sums = decode_gates(planes).sum(axis=0)
        weighed = sums > 0
        total += float((decode_gates(planes.max(axis=0))[weighed] / sums[weighed]).sum())
        rows += int(np.count_nonzero(weighed))
    return total / max(rows, 1)


def _mean_correlation(load: np.ndarray) -> float:
    """Mean load correlation over all pairs of parts of load [part, layer, expert], and over layers."""
    first, second = np.triu_indices(len(load), 1)
    return float(loads.load_correlation(load[first], load[second]).mean())
