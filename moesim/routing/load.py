"""Expert loads, and how uneven they are: functions of ``load [..., expert]`` that average nothing over layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.container import map_arrays, read_header, write_arrays
from moesim.routing.trace import RouterTrace

FORMAT_VERSION = 1
HEADER_KEY = "moesim_load"
_HEADER = ("top_k", "groups", "source", "dropped", "metadata")

WINDOW_TOKENS = 4096  # tokens that are counted at once; also the batch that a capacity factor applies to


@dataclass(frozen=True, slots=True, eq=False)
class LoadTable:
    """How often each expert was chosen: what counts-only sources hold, and enough for `moesim.routing.synthesis`.

    load: [layer, expert] tokens, MoE layers only. top_k: None where the source does not tell it.
    dropped: rows of the source that were warm-up or padding and are not counted.
    """

    name: str
    load: np.ndarray
    top_k: int | None = None
    groups: int = 1
    source: str = ""
    dropped: int = 0
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        if self.load.ndim != 2 or 0 in self.load.shape:
            raise InvalidInput(Problem(f"load of {self.name} has shape {self.load.shape}; write [layer, expert]"))
        if not np.isfinite(self.load).all() or (self.load < 0).any() or not (self.load.sum(axis=1) > 0).all():
            raise InvalidInput(
                Problem(f"load of {self.name} must be finite, not negative, and positive somewhere in every layer")
            )


def open_load_table(path: str | Path) -> LoadTable:
    """Read a load table that `write_load_table` wrote. Raises InvalidInput naming the file."""
    path = Path(path)
    header, arrays = map_arrays(path, ("load",))
    about = read_header(path, header, HEADER_KEY, FORMAT_VERSION, _HEADER)
    if "load" not in arrays:
        raise InvalidInput(Problem("holds no load", file=str(path)))
    return LoadTable(path.stem, np.asarray(arrays["load"]), **about)


def write_load_table(path: str | Path, table: LoadTable) -> Path:
    """Write a load table as safetensors."""
    about = {"format": FORMAT_VERSION} | {name: getattr(table, name) for name in _HEADER}
    return write_arrays(Path(path), {"load": table.load}, HEADER_KEY, about | {"metadata": dict(table.metadata)})


def choices(trace: RouterTrace, tokens: slice, layers: slice = slice(None)) -> np.ndarray:
    """Choices [token, layer, k] of some tokens, with the number of experts where a row has fewer than k of them."""
    ids = trace.ids[tokens, layers]
    if trace.count is None:
        return ids
    valid = np.arange(trace.top_k) < trace.count[tokens, layers, None]
    return np.where(valid, ids, np.uint16(trace.experts))


def windows(tokens: int, size: int = WINDOW_TOKENS) -> Iterator[slice]:
    """Consecutive slices of at most `size` tokens."""
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


def count_choices(ids: np.ndarray, experts: int, part: np.ndarray | None = None, parts: int = 1) -> np.ndarray:
    """Load [part, layer, expert] of choices [token, layer, k]; part [token] sorts the tokens into parts."""
    layers, columns = ids.shape[1], experts + 1  # one more column for rows with fewer than k choices
    row = np.arange(layers)[:, None] * columns
    if part is not None:
        row = row + part[:, None, None] * (layers * columns)
    flat = np.add(ids, row, dtype=np.int64).ravel()
    return np.bincount(flat, minlength=parts * layers * columns).reshape(parts, layers, columns)[..., :experts]


def expert_load(trace: RouterTrace) -> np.ndarray:
    """Tokens [layer, expert] that chose each expert; reads the trace in windows."""
    load = np.zeros((trace.layers, trace.experts), dtype=np.int64)
    for window in windows(trace.tokens):
        load += count_choices(choices(trace, window), trace.experts)[0]
    return load


def max_over_mean(load: np.ndarray) -> np.ndarray:
    """Load of the hottest over the mean, [...]."""
    return load.max(axis=-1) / load.mean(axis=-1)


def gini(load: np.ndarray) -> np.ndarray:
    """Gini coefficient [...]: 0 = equal loads, (n - 1) / n = one expert has all."""
    n = load.shape[-1]
    rank = np.arange(1, n + 1)
    return 2 * (np.sort(load, axis=-1) * rank).sum(axis=-1) / (n * load.sum(axis=-1)) - (n + 1) / n


def entropy_ratio(load: np.ndarray) -> np.ndarray:
    """Entropy of the load over that of equal loads, [...]: 1 = balanced."""
    share = load / load.sum(axis=-1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return -(share * logs).sum(axis=-1) / np.log(max(load.shape[-1], 2))


def rank_load(load: np.ndarray, ranks: int) -> np.ndarray:
    """Load [..., rank] when contiguous experts are shared out over the ranks (as evenly as their number allows)."""
    borders = np.arange(ranks) * load.shape[-1] // ranks
    return np.add.reduceat(load, borders, axis=-1)


def hottest_rank(load: np.ndarray, ranks: int) -> np.ndarray:
    """Load of the hottest rank over the mean rank, [...], with contiguous experts."""
    return max_over_mean(rank_load(load, ranks))


def group_correlation(load: np.ndarray, groups: int) -> np.ndarray:
    """Intra-class correlation [...] of the log-load inside contiguous groups of experts (one-way ANOVA, ICC(1)).

    (B - W) / (B + (m - 1) W) with the mean squares B between and W within groups of m. Positive when hot experts sit
    together, as under group-limited routing. An expert that nobody chose counts as half a token.
    """
    experts = load.shape[-1]
    if groups < 2 or experts // groups < 2:
        return np.full(load.shape[:-1], np.nan)
    logs = np.log(np.maximum(load, 0.5)).reshape(*load.shape[:-1], groups, experts // groups)
    size = experts // groups
    between = size * logs.mean(axis=-1).var(axis=-1, ddof=1)
    within = logs.var(axis=-1, ddof=1).mean(axis=-1)
    total = between + (size - 1) * within
    return np.divide(between - within, total, out=np.zeros_like(total), where=total > 0)


def drop_share(load: np.ndarray, capacity_factor: float) -> np.ndarray:
    """Share [...] of choices beyond the capacity ``ceil(capacity_factor x mean load)`` of an expert (GShard)."""
    capacity = np.ceil(capacity_factor * load.mean(axis=-1, keepdims=True))
    return np.maximum(load - capacity, 0).sum(axis=-1) / load.sum(axis=-1)


def load_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation [...] of the loads of two parts over the experts: 1 = the same experts are hot."""
    a = first - first.mean(axis=-1, keepdims=True)
    b = second - second.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.ones_like(scale, dtype=float), where=scale > 0)
