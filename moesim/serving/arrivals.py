"""When requests come: plain functions whose keyword-only arguments are the keys of YAML.

Each returns arrival times [request] in ascending seconds; rates are requests/s. The closed loop and the replay of
recorded requests are no arrival processes: see `moesim.serving.requests.closed_loop` and `moesim.serving.traces`.
"""

from __future__ import annotations

import numpy as np

from moesim.errors import InvalidInput, Problem

DAY_S = 86_400.0


def poisson(count: int, rng: np.random.Generator, *, rate: float) -> np.ndarray:
    """Independent requests: exponential gaps."""
    _positive(rate=rate)
    return np.cumsum(rng.exponential(1 / rate, count))


def gamma(count: int, rng: np.random.Generator, *, rate: float, burstiness: float) -> np.ndarray:
    """Gamma gaps of shape `burstiness`, as ``vllm bench serve --burstiness``: below 1 bursts, 1 Poisson, above regular.

    The squared coefficient of variation of the gaps is 1/burstiness.
    """
    _positive(rate=rate, burstiness=burstiness)
    return np.cumsum(rng.gamma(burstiness, 1 / (rate * burstiness), count))


def diurnal(
    count: int,
    rng: np.random.Generator,
    *,
    rate: float,
    swing: float = 0.5,
    period: float = DAY_S,
    phase: float = 0.0,
) -> np.ndarray:
    """Poisson whose rate swings: rate · (1 + swing · sin 2π(t/period + phase)), by inverting the cumulated rate."""
    _positive(rate=rate, period=period)
    if not 0 <= swing <= 1:
        raise InvalidInput(Problem(f"{swing} is no share between 0 and 1", "swing"))
    unit = np.cumsum(rng.exponential(1.0, count))  # a Poisson process of rate 1 in "expected requests so far"
    grid = np.linspace(0.0, unit[-1] / rate + 2 * period, 4096 + 64 * int(unit[-1] / rate / period))
    turn = 2 * np.pi * phase
    angle = 2 * np.pi * grid / period + turn
    expected = rate * (grid - swing * period / (2 * np.pi) * (np.cos(angle) - np.cos(turn)))
    return np.interp(unit, expected, grid)


def regular(count: int, rng: np.random.Generator, *, rate: float) -> np.ndarray:
    """One request every 1/rate seconds."""
    _positive(rate=rate)
    return np.arange(count) / rate


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise InvalidInput(Problem(f"{value} is not above 0", name))


ARRIVALS = {"poisson": poisson, "gamma": gamma, "diurnal": diurnal, "regular": regular}
