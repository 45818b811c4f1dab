"""Length distributions of prompts and outputs: plain functions whose keyword-only arguments are the keys of YAML."""

from __future__ import annotations

import numpy as np

from moesim.errors import InvalidInput, Problem


def fixed(count: int, rng: np.random.Generator, *, tokens: int) -> np.ndarray:
    """Every length the same."""
    _positive(tokens=tokens)
    return np.full(count, tokens, dtype=np.int64)


def uniform(count: int, rng: np.random.Generator, *, low: int, high: int) -> np.ndarray:
    """Evenly between low and high, both included."""
    _positive(low=low)
    if high < low:
        raise InvalidInput(Problem(f"high {high} lies below low {low}", "high"))
    return rng.integers(low, high, size=count, endpoint=True)


def nominal(count: int, rng: np.random.Generator, *, tokens: int, spread: float = 0.8) -> np.ndarray:
    """Evenly between spread × tokens and tokens: the ``--random-range-ratio`` of serving benchmarks."""
    _positive(tokens=tokens)
    if not 0 < spread <= 1:
        raise InvalidInput(Problem(f"{spread} is no share between 0 and 1", "spread"))
    return rng.integers(max(1, int(tokens * spread)), tokens, size=count, endpoint=True)


def lognormal(
    count: int, rng: np.random.Generator, *, median: float, sigma: float, longest: int | None = None
) -> np.ndarray:
    """Lognormal with a median and a standard deviation of the logarithm, at least 1 token, at most `longest`."""
    if median < 1 or sigma < 0:
        raise InvalidInput(Problem("median must be 1 or more and sigma 0 or more", "median"))
    lengths = np.rint(median * np.exp(sigma * rng.standard_normal(count))).astype(np.int64)
    return np.clip(lengths, 1, longest)


def empirical(count: int, rng: np.random.Generator, *, values: list[int], weights: list[float] | None = None):
    """Drawn from listed lengths, by weight where weights are given."""
    if not values or min(values) < 1:
        raise InvalidInput(Problem("list lengths of 1 token or more", "values"))
    if weights is not None and (len(weights) != len(values) or min(weights) < 0 or sum(weights) <= 0):
        raise InvalidInput(Problem(f"write {len(values)} weights from 0 on, some above", "weights"))
    share = None if weights is None else np.asarray(weights, dtype=float) / sum(weights)
    return rng.choice(np.asarray(values, dtype=np.int64), size=count, p=share)


def _positive(**tokens: int) -> None:
    for name, value in tokens.items():
        if value < 1:
            raise InvalidInput(Problem(f"{value} is not a number of tokens from 1 on", name))


LENGTHS = {
    "fixed": fixed,
    "uniform": uniform,
    "nominal": nominal,
    "lognormal": lognormal,
    "empirical": empirical,
}
