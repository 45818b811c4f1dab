"""Synthetic traces: made from loads or fitted to a trace, and always saying so.

A kind is a function; its keyword arguments are the keys that a scenario writes. Every trace that comes out has
``synthetic=True`` and, under ``metadata["synthesis"]``, the kind, its parameters, what it was fitted to, and the
moments wanted and reached. Only `fitted` has persistence in time, dependence between layers and group-limited choice.
The tokens of all other kinds know nothing of each other, nor do their layers: do not judge locality, prefetching or
node-limited traffic by them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.choice import draw_independent
from moesim.routing.health import Moments, load_moments, moments
from moesim.routing.latent import Geometry, draw, fit
from moesim.routing.load import LoadTable, expert_load, gini, group_correlation, hottest_rank, max_over_mean
from moesim.routing.replay import Routes
from moesim.routing.trace import RouterTrace, expert_dtype

TOKENS = 8192
SEQUENCE = 512
CLUSTERS = (8, 32)  # ranks whose hottest one a fitted lognormal must match: DeepSeek's 8 groups, and 32 ranks


def balanced(geometry: Geometry, *, rng: np.random.Generator, tokens: int = TOKENS) -> RouterTrace:
    """Every expert equally often, in every run of tokens: the forced balance of most published training figures."""
    step = balanced_routes(geometry, tokens_per_rank=np.array([tokens]), rng=rng)
    return _labelled(
        "balanced", geometry, step.ids.transpose(1, 0, 2), {}, load_moments(np.ones((1, geometry.experts)))
    )


def balanced_routes(geometry: Geometry, *, tokens_per_rank: np.ndarray, rng: np.random.Generator) -> Routes:
    """One step whose loads differ by at most one token: [ranks] tokens per rank, experts dealt out in turn.

    Each layer deals its experts in another random order, so that a token's experts lie on unrelated ranks. Where a
    token may use some groups only, the groups take turns too, and loads differ by at most two tokens.
    """
    tokens, dtype = int(tokens_per_rank.sum()), expert_dtype(geometry.experts)
    turn = _turns(geometry, tokens)
    orders = [_order(geometry, rng).astype(dtype) for _ in range(geometry.layers)]
    offsets = np.concatenate([[0], np.cumsum(tokens_per_rank)])
    return Routes(np.stack([order[turn] for order in orders]), None, offsets, np.empty((0, tokens), int), 0, True)


def _order(geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """A random order of the experts, which keeps groups together where a token may use some only."""
    if not _limited(geometry):
        return rng.permutation(geometry.experts)
    size = geometry.experts // geometry.groups
    inside = rng.permuted(np.tile(np.arange(size), (geometry.groups, 1)), axis=1)
    return (rng.permutation(geometry.groups)[:, None] * size + inside).ravel()


def _limited(geometry: Geometry) -> bool:
    return geometry.kept_groups < geometry.groups


def _turns(geometry: Geometry, tokens: int) -> np.ndarray:
    """[token, k] experts dealt out in turn; under group-limited choice token t takes them from `kept_groups` groups
    from group t on, as evenly as k divides, and each group deals its own in turn."""
    k, number = geometry.top_k, np.arange(tokens)
    if not _limited(geometry):
        return (number[:, None] * k + np.arange(k)) % geometry.experts
    groups, kept = geometry.groups, geometry.kept_groups
    share = np.zeros(groups, dtype=np.int64)  # of the group at each distance from a token's first
    share[:kept] = k // kept + (np.arange(kept) < k % kept)
    dealt = share[(np.arange(groups) - number[:, None]) % groups]  # [token, group]
    before = np.cumsum(dealt, axis=0) - dealt
    group = (number[:, None] + np.repeat(np.arange(groups), share)) % groups  # [token, k]
    again = np.concatenate([np.arange(count) for count in share])  # which of its picks in the group
    place = (np.take_along_axis(before, group, axis=1) + again) % (geometry.experts // groups)
    return group * (geometry.experts // groups) + place


def power_law(geometry: Geometry, *, alpha: float, rng: np.random.Generator, tokens: int = TOKENS) -> RouterTrace:
    """The test pattern of the published expert-kernel tables (`power_law_load`), as a trace."""
    load = np.stack(
        [power_law_load(alpha, tokens, geometry.experts, geometry.top_k, rng) for _ in range(geometry.layers)]
    )
    return _independent("power_law", geometry, load, tokens, {"alpha": alpha}, rng)


def power_law_load(alpha: float, tokens: int, experts: int, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens [expert] under the ``power_law_A`` distribution of AIConfigurator's kernel measurements.

    Popularity x is drawn from a density x^-A between xmin and xmax by inverting its distribution; (xmin, xmax) =
    (1, 0.8 tokens) when tokens x top_k > experts, else (0.01, 2). Popularities are scaled to tokens x top_k choices,
    rounded, and no expert gets more than all tokens.
    """
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    u = rng.random(experts)
    if alpha == 1:  # the limit of the formula below
        popularity = low * (high / low) ** u
    else:
        popularity = ((high ** (1 - alpha) - low ** (1 - alpha)) * u + low ** (1 - alpha)) ** (1 / (1 - alpha))
    return np.minimum(np.rint(popularity * (tokens * top_k / popularity.sum())), tokens).astype(np.int64)


def lognormal(
    geometry: Geometry,
    *,
    sigma: float,
    rng: np.random.Generator,
    clusters: Mapping[int, float] | None = None,
    tokens: int = TOKENS,
    like: LoadTable | None = None,
) -> RouterTrace:
    """Lognormal loads whose hot experts sit together (`lognormal_load`). like: the table that `fit_lognormal` saw."""
    clusters = dict(clusters or {})
    load = lognormal_load(geometry.layers, geometry.experts, sigma, clusters, rng)
    wanted = load_moments(like.load, geometry.groups) if like else None
    parameters = {"sigma": sigma, "clusters": {str(count): share for count, share in clusters.items()}}
    return _independent("lognormal", geometry, load, tokens, parameters, rng, wanted, like.name if like else "")


def lognormal_load(
    layers: int, experts: int, sigma: float, clusters: Mapping[int, float], rng: np.random.Generator
) -> np.ndarray:
    """Relative loads [layer, expert] with log standard deviation sigma.

    clusters: number of contiguous clusters → share of the log-variance that the experts of one have in common. Loads of
    served DeepSeek-R1 are nearly lognormal with sigma 0.6-0.9, and cluster in its 8 groups and again inside them.
    """
    _check_clusters(clusters, experts)
    normal = rng.standard_normal
    logs = np.sqrt(1 - sum(clusters.values())) * normal((layers, experts))
    for count, share in clusters.items():
        logs += np.sqrt(share) * np.repeat(normal((layers, count)), experts // count, axis=1)
    return np.exp(sigma * logs)


def fit_lognormal(table: LoadTable, rng: np.random.Generator) -> dict:
    """sigma and clusters, as `lognormal` takes them, nearest to a table's max/mean, Gini and hottest ranks.

    Moment estimates of the logs would not do: real loads have a heavier hot tail than a lognormal, and the hottest rank
    is what a cluster waits for. Three variances are fitted to four figures, on simulated loads. On DeepSeek-R1 the
    hottest ranks come out within 5 % at EP8 and EP32, max/mean 7-15 % too low and the Gini up to 0.04 too high.
    """
    from scipy.optimize import least_squares

    experts = table.load.shape[1]
    counts = [count for count in CLUSTERS if count < experts and experts % count == 0]
    draws = [rng.standard_normal((512, count)) for count in counts]
    own = rng.standard_normal((512, experts))

    def figures(load: np.ndarray) -> np.ndarray:
        ranks = (hottest_rank(load, count).mean() for count in counts)
        return np.array([max_over_mean(load).mean(), gini(load).mean(), *ranks])

    def simulated(deviations: np.ndarray) -> np.ndarray:
        logs = deviations[0] * own
        for deviation, drawn in zip(deviations[1:], draws, strict=True):
            logs = logs + deviation * np.repeat(drawn, experts // drawn.shape[1], axis=1)
        return np.exp(logs)

    wanted = figures(table.load)
    start = np.full(1 + len(counts), 0.4)
    found = least_squares(lambda x: figures(simulated(x)) / np.maximum(wanted, 1e-9) - 1, start, bounds=(0, 3)).x
    variance = float((found**2).sum())
    shares = (found[1:] ** 2 / variance).tolist() if variance > 0 else [0.0] * len(counts)
    return {"sigma": float(np.sqrt(variance)), "clusters": dict(zip(counts, shares, strict=True))}


def bootstrap(geometry: Geometry, *, table: LoadTable, rng: np.random.Generator, tokens: int = TOKENS) -> RouterTrace:
    """Independent tokens with the loads of a counted table; further layers than it has are drawn from it again."""
    counted, experts = table.load.shape
    if experts != geometry.experts or table.top_k not in (None, geometry.top_k):
        raise InvalidInput(
            Problem(
                f"the load table {table.name} has {experts} experts, top {table.top_k or '?'}; the model has "
                f"{geometry.experts}, top {geometry.top_k}; use its own counts, or kind: lognormal fitted to this table"
            )
        )
    layers = np.arange(geometry.layers)
    layers[counted:] = rng.integers(counted, size=max(0, geometry.layers - counted))
    wanted = load_moments(table.load, geometry.groups)
    return _independent("bootstrap", geometry, table.load[layers], tokens, {}, rng, wanted, table.name)


def fitted(
    geometry: Geometry, *, source: RouterTrace, rng: np.random.Generator, tokens: int | None = None
) -> RouterTrace:
    """A trace of the latent-factor model (`moesim.routing.latent`) fitted to a captured one.

    It keeps loads, autocorrelation and next-layer dependence of the source. With another number of experts or layers
    the source's distribution of loads is stretched to them (`moved_load`), and the model fitted anew to its moments.
    tokens: as many as the source by default; sequences have the lengths of the source's, over and over.
    """
    wanted = moments(source)
    load = moved_load(expert_load(source), geometry, source.groups, rng)
    model = fit(wanted, load, geometry, source.offsets, rng)
    offsets = _repeated(source.offsets, tokens or source.tokens)
    ids = draw(model, load, geometry, offsets, rng)
    parameters = dataclasses.asdict(model) | {"moved": load.shape != (source.layers, source.experts)}
    return _labelled("fitted", geometry, ids, parameters, wanted, source.name, offsets)


def moved_load(load: np.ndarray, geometry: Geometry, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Loads [layer, expert] of another geometry with the same distribution over experts, layer by relative depth.

    Unchanged where the geometry is the same. Otherwise the log-loads of the nearest layer, sorted, are interpolated to
    the number of experts and dealt out at random: which expert is hot means nothing in another model. Hot experts stay
    together in routing groups as much as they did (`moesim.routing.load.group_correlation`).
    """
    layers, experts = load.shape
    if (layers, experts) == (geometry.layers, geometry.experts):
        return load
    nearest = np.rint(np.linspace(0, layers - 1, geometry.layers)).astype(int)
    if experts == geometry.experts:
        return load[nearest]
    logs = np.log(np.maximum(np.sort(load, axis=1), 0.5))
    old, new = ((np.arange(count) + 0.5) / count for count in (experts, geometry.experts))
    stretched = np.stack([np.interp(new, old, logs[layer]) for layer in nearest])
    together = 0.0
    if groups > 1 and geometry.groups > 1:
        together = float(np.clip(np.nanmean(group_correlation(load, groups)), 0, 1))
    heat = np.sqrt(1 - together) * rng.standard_normal(stretched.shape)
    of_group = rng.standard_normal((geometry.layers, geometry.groups))
    heat += np.sqrt(together) * np.repeat(of_group, geometry.experts // geometry.groups, axis=1)
    return np.exp(np.take_along_axis(stretched, heat.argsort(axis=1).argsort(axis=1), axis=1))


def _independent(
    kind: str,
    geometry: Geometry,
    load: np.ndarray,
    tokens: int,
    parameters: dict,
    rng: np.random.Generator,
    wanted: Moments | None = None,
    fitted_to: str = "",
) -> RouterTrace:
    ids = draw_independent(load, geometry.top_k, tokens, rng)
    return _labelled(kind, geometry, ids, parameters, wanted or load_moments(load, geometry.groups), fitted_to)


def _labelled(
    kind: str,
    geometry: Geometry,
    ids: np.ndarray,
    parameters: dict,
    wanted: Moments,
    fitted_to: str = "",
    offsets: np.ndarray | None = None,
) -> RouterTrace:
    """The trace of ids [token, layer, k] with its confession."""
    if offsets is None:
        offsets = np.unique(np.append(np.arange(0, len(ids), SEQUENCE), len(ids)))
    trace = RouterTrace(kind, np.ascontiguousarray(ids), offsets, geometry.experts, geometry.groups, synthetic=True)
    reached = moments(trace) if wanted.autocorrelation else load_moments(expert_load(trace), geometry.groups)
    story = {
        "kind": kind,
        "parameters": parameters,
        "fitted_to": fitted_to,
        "moments_wanted": wanted.as_json(),
        "moments_reached": reached.as_json(),
    }
    source = f"synthetic ({kind}" + (f", fitted to {fitted_to})" if fitted_to else ")")
    return dataclasses.replace(trace, name=f"synthetic-{kind}", source=source, metadata={"synthesis": story})


def _repeated(offsets: np.ndarray, tokens: int) -> np.ndarray:
    """Offsets of so many tokens in sequences of the lengths given, over and over; the last one is cut."""
    ends = np.asarray(offsets[1:])
    rounds = -(-tokens // int(ends[-1]))
    ends = (ends + np.arange(rounds)[:, None] * ends[-1]).ravel()
    return np.concatenate([[0], ends[ends < tokens], [tokens]])


def _check_clusters(clusters: Mapping[int, float], experts: int) -> None:
    if any(experts % count for count in clusters) or any(share < 0 for share in clusters.values()):
        raise InvalidInput(f"clusters {dict(clusters)}: counts must divide {experts} experts, shares lie in 0 … 1")
    if sum(clusters.values()) > 1:
        raise InvalidInput(f"clusters {dict(clusters)}: shares of the log-variance must not sum to more than 1")
