"""Loads of experts as the columns that `moesim.cost.experts_kernel` reads, and the patterns of the kernel tables.

Measured tables do not record loads, they name a pattern over the global tokens and the expert-parallel ranks:

``balanced``: token t takes the experts (s + j·stride) mod E, j < k, with stride = ceil(E/k) and s = t once there are
stride tokens, else s = floor(t·stride/T). Inferred from the tables: it explains which batch sizes touch one expert more
(E = 512, k = 10, 128 ranks: 1, 2, 3 experts at T = 4, 8, 16). Where k does not divide E it is not quite balanced:
rank 0 holds the experts that are taken twice. The modelled rank is rank 0.

``power_law_A``: popularities x = ((b^(1-A) - a^(1-A))·u + a^(1-A))^(1/(1-A)), u ~ U(0, 1), (a, b) = (1, 0.8·T) when
T·k > E, else (0.01, 2); scaled to T·k, rounded, the remainder spread over the largest (or taken from the smallest)
loads, ties at random, and clamped to T. The modelled rank is the one with most pairs. A measured row is one such
draw; the columns are means over `DRAWS` seeded draws.

Routing in groups: a kernel that routes by itself with group-limited top-k (DeepSeek-V3: the best 4 of 8 groups) sees
these patterns as scores, keeps half of the groups and fills the free picks of every token from the lowest group that
it keeps. So half of the experts is touched and a few of rank 0 receive nearly all tokens.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.cost.experts_kernel import TILES
from moesim.errors import InvalidInput

LOAD_COLUMNS = ("pairs", "touched", *(f"tiles_{size}" for size in TILES))
DRAWS = 24
_GROUPS, _KEPT_GROUPS = 8, 4  # DeepSeek-V3 (arXiv:2412.19437, section 4.2)
_GROUPED_TOKENS = 512  # tokens routed one by one; loads of longer batches are scaled up from these
_GROUPED_DRAWS = 6  # of the draws, routed in groups
_SEED = 20_250_721


def load_columns(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """``pairs``, ``touched`` and ``tiles_8`` … ``tiles_256`` [...] of tokens [..., experts]."""
    tokens = np.asarray(tokens, dtype=np.float32)
    columns = {"pairs": tokens.sum(axis=-1, dtype=float), "touched": np.count_nonzero(tokens, axis=-1).astype(float)}
    for size in TILES:
        columns[f"tiles_{size}"] = np.ceil(tokens / np.float32(size)).sum(axis=-1, dtype=float)
    return columns


def table_loads(
    num_tokens: np.ndarray, experts: np.ndarray, top_k: np.ndarray, ep: np.ndarray, distribution: np.ndarray,
    grouped: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Load columns [rows] of the modelled rank of every table row. Raises InvalidInput for an unknown distribution."""
    names, named = np.unique(np.asarray(distribution, dtype=str), return_inverse=True)
    columns = [np.asarray(column).astype(np.int64) for column in (num_tokens, experts, top_k, ep, grouped, named)]
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:  # one integer per pattern: far cheaper to sort than rows of six
        key = key * (int(column.max(initial=0)) + 1) + column
    _, first, of = np.unique(key, return_index=True, return_inverse=True)
    exponents = [_exponent(str(name)) for name in names]
    patterns = np.stack([column[first] for column in columns], axis=1).tolist()
    parts = np.array([_pattern(*pattern[:4], bool(pattern[4]), exponents[pattern[5]]) for pattern in patterns])
    return dict(zip(LOAD_COLUMNS, parts.T[:, of.reshape(-1)], strict=True))


@lru_cache(maxsize=100_000)
def _pattern(num_tokens: int, experts: int, top_k: int, ep: int, grouped: bool, exponent: float) -> tuple[float, ...]:
    """`LOAD_COLUMNS` of the modelled rank, means over draws; cached, for many kernels run the same patterns."""
    if exponent == 0:
        loads = balanced_loads(num_tokens, experts, top_k, grouped)[None, : experts // ep]
    else:
        drawn = _draws(num_tokens, experts, top_k, exponent)
        loads = _hottest_rank(drawn, num_tokens, top_k, ep, grouped)
    columns = load_columns(loads)
    return tuple(columns[name].sum() / len(loads) for name in LOAD_COLUMNS)


@lru_cache(maxsize=64)
def _draws(num_tokens: int, experts: int, top_k: int, exponent: float) -> np.ndarray:
    """The seeded draws of a pattern, the same for any number of ranks and whatever else is in the table."""
    rng = np.random.default_rng([_SEED, num_tokens, experts, top_k, int(1000 * exponent)])
    return power_law_loads(num_tokens, experts, top_k, exponent, rng)


def balanced_loads(num_tokens: int, experts: int, top_k: int, grouped: bool = False) -> np.ndarray:
    """[experts] pairs of each expert under the balanced pattern."""
    stride = -(-experts // top_k)
    token = np.arange(num_tokens)
    first = token if num_tokens >= stride else token * stride // num_tokens
    if grouped:
        return _grouped_loads((first[:, None] + np.arange(top_k) * stride) % experts, experts)
    starts = np.bincount(first % experts, minlength=experts)
    return starts[(np.arange(experts) - np.arange(top_k)[:, None] * stride) % experts].sum(axis=0)


def power_law_loads(
    num_tokens: int, experts: int, top_k: int, exponent: float, rng: np.random.Generator, draws: int = DRAWS
) -> np.ndarray:
    """[draws, experts] pairs of each expert; every draw adds up to num_tokens·top_k unless the clamp cuts it."""
    total = num_tokens * top_k
    low, high = (1.0, 0.8 * num_tokens) if total > experts else (0.01, 2.0)
    power = 1.0 - exponent
    popularity = ((high**power - low**power) * rng.random((draws, experts)) + low**power) ** (1 / power)
    loads = np.rint(popularity * (total / popularity.sum(axis=1, keepdims=True)))
    missing = (total - loads.sum(axis=1)).astype(int)
    order = np.argsort(loads + 0.5 * rng.random(loads.shape), axis=1)
    for load, up, short in zip(loads, order, missing, strict=True):
        if short > 0:
            load += short // experts
            load[up[experts - short % experts :]] += 1
        elif short < 0:
            first = experts - np.count_nonzero(load)
            load[up[first : first - short]] -= 1
    return np.minimum(loads, num_tokens)


def _exponent(distribution: str) -> float:
    """0 for balanced, A for power_law_A."""
    if distribution == "balanced":
        return 0.0
    kind, _, exponent = distribution.rpartition("_")
    try:
        value = float(exponent)
    except ValueError:
        value = 0.0
    if kind != "power_law" or value <= 0 or value == 1:
        raise InvalidInput(f"distribution {distribution!r} is unknown; write balanced or power_law_A with A > 0, A ≠ 1")
    return value


def _hottest_rank(loads: np.ndarray, num_tokens: int, top_k: int, ranks: int, grouped: bool) -> np.ndarray:
    """[draws, experts/ranks] loads of the rank with most pairs in each draw."""
    by_rank = loads.reshape(len(loads), ranks, -1)
    hottest = by_rank.sum(axis=2).argmax(axis=1)
    if not grouped:
        return by_rank[np.arange(len(loads)), hottest]
    local, experts = by_rank.shape[2], loads.shape[1]
    seen = []
    for load, rank in zip(by_rank[:_GROUPED_DRAWS], hottest, strict=False):
        flat = np.roll(load, -rank, axis=0).reshape(-1).astype(int)  # the measured rank is numbered 0
        picks = np.resize(np.repeat(np.arange(experts), flat), num_tokens * top_k).reshape(top_k, num_tokens).T
        seen.append(_grouped_loads(picks, experts)[:local])
    return np.array(seen)


def _grouped_loads(picks: np.ndarray, experts: int) -> np.ndarray:
    """[experts] pairs after each token keeps the groups that hold most of its picks [tokens, k] and fills the rest."""
    tokens, top_k = picks.shape
    if tokens > _GROUPED_TOKENS:
        picks = picks[np.linspace(0, tokens - 1, _GROUPED_TOKENS).astype(int)]
    size, here = experts // _GROUPS, np.arange(len(picks))[:, None]
    held = np.bincount((here * _GROUPS + picks // size).reshape(-1), minlength=len(picks) * _GROUPS)
    held = held.reshape(-1, _GROUPS)
    score = np.minimum(held, 2) * _GROUPS - np.arange(_GROUPS)  # the best two of a group count; ties: the lowest group
    best = np.argsort(-score, axis=1)[:, :_KEPT_GROUPS]
    kept = np.zeros_like(held, dtype=bool)
    np.put_along_axis(kept, best, True, axis=1)
    stays = np.take_along_axis(kept, picks // size, axis=1)
    filler = best.min(axis=1)[:, None] * size + np.arange(top_k)
    # a token does not take twice what it has: its fillers start after as many of the first experts as it holds
    holds = ((picks[:, :, None] == filler[:, None, :]) & stays[:, :, None]).any(axis=1)
    free = np.where(holds, 0, np.cumsum(~holds, axis=1))
    fills = (free > 0) & (free <= top_k - stays.sum(axis=1, keepdims=True))
    loads = np.bincount(picks[stays], minlength=experts) + np.bincount(filler[fills], minlength=experts)
    return loads * tokens / len(picks)
