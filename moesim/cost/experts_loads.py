"""Loads of experts as the columns that `moesim.cost.experts_kernel` reads, and the patterns of the kernel tables.

Measured tables do not record loads, they name a pattern over the global tokens and the expert-parallel ranks:

``balanced``: token t takes the experts (s + j·stride) mod E, j < k, with stride = ceil(E/k) and s = t once there are
stride tokens, else s = floor(t·stride/T). Inferred from the tables: it explains which batch sizes touch one expert more
(E = 512, k = 10, 128 ranks: 1, 2, 3 experts at T = 4, 8, 16). Where k does not divide E it is not quite balanced:
rank 0 holds the experts that are taken twice. The modelled rank is rank 0.

``power_law_A``: popularities x = ((b^(1-A) - a^(1-A))·u + a^(1-A))^(1/(1-A)), u ~ U(0, 1), (a, b) = (1, 0.8·T) when
T·k > E, else (0.01, 2); scaled to T·k, rounded, the remainder given to (or taken from) random experts, clamped to T.
Random is inferred: at T·k = E/8 rows take the time of 0.88 to 1.0·T·k touched experts; random remainders touch 0.95,
remainders for the largest loads 0.6. The modelled rank is the one with most pairs. A measured row is one such draw;
the columns are means over `DRAWS` seeded draws.

Routing in groups: a kernel that routes by itself with group-limited top-k (DeepSeek-V3: the best 4 of 8 groups) sees
these patterns as scores, keeps half of the groups and fills the free picks of every token from the lowest group that
it keeps. So half of the experts is touched and a few of rank 0 receive nearly all tokens, which explains rows that beat
the bytes of all experts by 1.8x and rows up to 7x slower than a balanced rank. Also inferred; median error 5 to 7 %.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.cost.experts_kernel import TILES
from moesim.errors import InvalidInput

LOAD_COLUMNS = ("pairs", "touched", *(f"tiles_{size}" for size in TILES))
DRAWS = 24
_GROUPS, _KEPT_GROUPS = 8, 4  # DeepSeek-V3 (arXiv:2412.19437, section 4.2)
_GROUPED_TOKENS = 128  # tokens of a draw that are routed one by one; longer batches are scaled up from these
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
        by_rank = drawn.reshape(len(drawn), ep, -1)
        hottest, draws = by_rank.sum(axis=2).argmax(axis=1), np.arange(len(drawn))
        loads = by_rank[draws, hottest]
        if grouped:
            exchanged = by_rank[:_GROUPED_DRAWS].copy()  # the hottest rank is measured as rank 0
            exchanged[draws[:_GROUPED_DRAWS], hottest[:_GROUPED_DRAWS]] = exchanged[:, 0]
            exchanged[:, 0] = loads[:_GROUPED_DRAWS]
            rng = np.random.default_rng([_SEED, num_tokens, experts, ep])
            loads = _grouped(exchanged.reshape(len(exchanged), experts), num_tokens, top_k, rng)[:, : experts // ep]
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
        first = first[:experts]  # the pattern repeats
        kept, filled = _keep_groups(((first[:, None] + np.arange(top_k) * stride) % experts)[None], experts)
        return (kept + filled)[0] * num_tokens / len(first)
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
    for load, short in zip(loads, missing, strict=True):
        if short > 0:
            load += np.bincount(rng.integers(experts, size=short), minlength=experts)
        elif short < 0:
            load[rng.permutation(np.flatnonzero(load))[:-short]] -= 1
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


def _grouped(loads: np.ndarray, num_tokens: int, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """[draws, experts] loads after routing in groups, if the pairs of loads [draws, experts] fall on random tokens."""
    draws, experts = loads.shape
    tokens = min(num_tokens, _GROUPED_TOKENS)
    if tokens == num_tokens:
        picks = [
            rng.permutation(np.resize(np.repeat(np.arange(experts), load.astype(int)), tokens * top_k))
            for load in loads
        ]
    else:
        share = loads.cumsum(axis=1) / loads.sum(axis=1, keepdims=True)
        picks = [np.searchsorted(row, rng.random(tokens * top_k)).clip(max=experts - 1) for row in share]
    picks = np.reshape(picks, (draws, tokens, top_k))
    kept, filled = _keep_groups(picks, experts)
    if tokens == num_tokens:
        return kept + filled
    # of a sample of tokens only the share of picks that each group keeps is taken, so that rare experts stay touched
    by_group = (draws, _GROUPS, experts // _GROUPS)
    sampled = np.stack([np.bincount(row.reshape(-1), minlength=experts) for row in picks]).reshape(by_group).sum(axis=2)
    share = kept.reshape(by_group).sum(axis=2) / np.maximum(sampled, 1)
    return np.repeat(share, experts // _GROUPS, axis=1) * loads + filled * num_tokens / tokens


def _keep_groups(picks: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, filled) [draws, experts]: picks [draws, tokens, k] in the groups that their token keeps, and its fillers.

    A token keeps the groups with the best two scores, where picks score 1 and others 0: ties go to the lowest group,
    and groups of one expert all tie. Free picks (of other groups, or an expert picked twice) go to the first other
    experts of the lowest group that it keeps.
    """
    draws, tokens, top_k = picks.shape
    size, picks = experts // _GROUPS, np.sort(picks, axis=2).reshape(draws * tokens, top_k)
    fresh = np.diff(picks, axis=1, prepend=-1) > 0
    here, group = np.arange(len(picks))[:, None], picks // size
    held = np.bincount((here * _GROUPS + group)[fresh], minlength=len(picks) * _GROUPS).reshape(-1, _GROUPS)
    score = np.minimum(held, 2) * _GROUPS * (size > 1) - np.arange(_GROUPS)
    best = np.argpartition(-score, _KEPT_GROUPS - 1, axis=1)[:, :_KEPT_GROUPS]
    is_kept = np.zeros(held.shape, dtype=bool)
    np.put_along_axis(is_kept, best, True, axis=1)
    stays = fresh & np.take_along_axis(is_kept, group, axis=1)
    # fillers in order of their number: from the lowest group, and where it is smaller than k from the next ones
    order = np.sort(best, axis=1)[:, np.arange(top_k) // size % _KEPT_GROUPS] * size + np.arange(top_k) % size
    taken = ((picks[:, :, None] == order[:, None, :]) & stays[:, :, None]).any(axis=1)
    fills = ~taken & (np.cumsum(~taken, axis=1) <= top_k - stays.sum(axis=1, keepdims=True))
    draw = np.repeat(np.arange(draws), tokens)[:, None] * experts
    total = draws * experts
    kept = np.bincount((draw + picks)[stays], minlength=total).reshape(draws, experts)
    return kept, np.bincount((draw + order)[fills], minlength=total).reshape(draws, experts)
