"""Fit physical cost models to measured kernels, and say honestly how well they do.

Everything here is the same for all families (`moesim.cost.family`): fitting, leaving shapes out, intervals. Fits
minimise a soft-L1 loss of log(prediction / measurement) (`moesim.cost.least_squares`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from moesim.cost.family import COVERAGE, Family, Fit, Rows, family_on, predict
from moesim.cost.least_squares import LOSS_SCALE, soft_l1_minimum
from moesim.errors import InvalidInput
from moesim.hardware.device import Device

# How much wider than its held-out residuals an interval is, from a trial on the same tables (P90 errors in brackets).
ONE_SHAPE = 1.2  # half-width in logs, when no shape could be held out (experts: 26 to 31 %)
BORROWED = 1.35  # half-width in logs, when a sibling's fit is used (products: 18 to 28 %)


def fit(family: Family, device: Device, rows: Rows, key: Mapping[str, str], *, search_rows: int = 600) -> Fit:
    """Fit all parameters and choices of a family to the rows of one kernel; in-sample error and interval.

    search_rows: the discrete choices are compared on at most this many rows, drawn at random; the final fit uses all
    rows. Raises InvalidInput when the rows cannot determine a fit.
    """
    family = _started(family_on(family, device), key)
    seconds = np.asarray(rows[family.measured], dtype=float)
    check_fittable(family, rows, key)
    if family.prepare is not None:
        rows = family.prepare(device, rows)
    choices = _search_choices(family, device, rows, seconds, search_rows)
    start = {name: parameter.start for name, parameter in family.parameters.items()}
    parameters, _ = _least_squares(family, device, rows, seconds, start, choices, evaluations=40)
    memory_s, compute_s = family.bounds(device, rows)
    predicted = np.maximum(family.predict(device, rows, parameters, choices), np.maximum(memory_s, compute_s))
    return Fit(
        family.name,
        dict(key),
        parameters,
        choices,
        points=len(seconds),
        shapes=int(shape_index(family, rows).max()) + 1,
        error=absolute_errors(predicted, seconds),
        interval=conformal_interval(np.log(seconds / predicted)),
        range={c: (float(np.min(rows[c])), float(np.max(rows[c]))) for c in family.numeric},
    )


def _started(family: Family, key: Mapping[str, str]) -> Family:
    """The family with the generic values of one kernel as starts."""
    if family.starts is None:
        return family
    own = {name: replace(family.parameters[name], start=start) for name, start in family.starts(key).items()}
    return replace(family, parameters={**family.parameters, **own})


def cross_validate(
    family: Family, device: Device, rows: Rows, key: Mapping[str, str], *, folds: int = 5, most_rows: int = 1500
) -> np.ndarray:
    """[rows] seconds predicted for each row by a fit that never saw its shape; NaN if there is a single shape.

    Continuous parameters and discrete choices are both refitted in every fold, from the generic start, on a random draw
    of at most ``most_rows`` rows of the other shapes: a hundred a parameter, and every held-out row is predicted.
    """
    fold = shape_folds(family, rows, folds)
    held_out = np.full(len(fold), np.nan)
    if fold.max(initial=0) == 0:
        return held_out
    if family.prepare is not None:
        rows = family.prepare(device, rows)
    for index in range(fold.max() + 1):
        others = np.random.default_rng(index).permutation(np.flatnonzero(fold != index))[:most_rows]
        fitted = fit(family, device, take(rows, others), key, search_rows=400)
        held_out[fold == index] = predict(family, device, take(rows, fold == index), fitted).seconds
    return held_out


def with_held_out(fitted: Fit, held_out: np.ndarray, seconds: np.ndarray) -> Fit:
    """The same fit with the error and the interval of held-out shapes instead of in-sample ones.

    A kernel of a single shape keeps its in-sample error and gets a wider interval.
    """
    known = np.isfinite(held_out)
    if not known.any():
        return _widened(fitted, ONE_SHAPE)
    interval = conformal_interval(np.log(seconds[known] / held_out[known]))
    error = absolute_errors(held_out[known], seconds[known])
    return replace(fitted, error=error, held_out=True, interval=interval)


def borrowed(fitted: Fit) -> Fit:
    """A sibling's fit for another device: relative efficiencies and fixed times stay, the interval widens.

    Its host's launches stay too: `moesim.cost.launch.on_host` swaps them.
    """
    return _widened(fitted, BORROWED)


def _widened(fitted: Fit, factor: float) -> Fit:
    low, high = fitted.interval
    return replace(fitted, interval=(float(low**factor), float(high**factor)))


def conformal_interval(log_residuals: np.ndarray, coverage: float = COVERAGE) -> tuple[float, float]:
    """Factors (low, high) on a prediction that hold ``coverage`` of residuals log(measured / predicted).

    Split conformal: the outer order statistics of held-out residuals (Lei et al. 2018), so a few points widen it.
    """
    count = len(log_residuals)
    tail = max(0.0, (1 - coverage) / 2 - 0.5 / max(count, 1))
    low, high = np.quantile(log_residuals, [tail, 1 - tail])
    return float(np.exp(min(low, -0.01))), float(np.exp(max(high, 0.01)))


def absolute_errors(predicted: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Median and P90 of |predicted / measured - 1|."""
    error = np.abs(predicted / seconds - 1)
    return float(np.median(error)), float(np.quantile(error, 0.9))


def take(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    """The rows that a mask or an index array selects."""
    return {column: np.asarray(values)[index] for column, values in rows.items()}


def shape_index(family: Family, rows: Rows) -> np.ndarray:
    """[rows] number of each row's shape."""
    codes = [np.unique(np.asarray(rows[column]), return_inverse=True)[1].reshape(-1) for column in family.shape]
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def shape_folds(family: Family, rows: Rows, folds: int) -> np.ndarray:
    """[rows] fold of each row: whole shapes, shuffled by a fixed seed, at most ``folds`` folds."""
    index = shape_index(family, rows)
    shapes = int(index.max(initial=-1)) + 1
    order = np.random.default_rng(0).permutation(shapes)
    return (order % min(folds, max(shapes, 1)))[index]


def check_fittable(family: Family, rows: Rows, key: Mapping[str, str]) -> None:
    """Raises InvalidInput when rows cannot determine a fit: times not positive, too few points, one size only."""
    name, seconds = " ".join(key.values()), np.asarray(rows[family.measured], dtype=float)
    if not np.all(np.isfinite(seconds) & (seconds > 0)):
        bad = int(np.argmin(np.isfinite(seconds) & (seconds > 0)))
        raise InvalidInput(f"{name}: {family.measured} must be positive; row {bad} of this kernel has {seconds[bad]}")
    least = len(family.parameters)  # no more: priors hold what the points do not determine
    if len(seconds) < least:
        raise InvalidInput(f"{name}: {len(seconds)} points cannot fit {least} parameters; measure {least} or more")
    if np.ptp(np.asarray(rows[family.size], dtype=float)) == 0:
        raise InvalidInput(f"{name}: all rows have one {family.size}; measure several sizes")


def _search_choices(
    family: Family, device: Device, rows: Rows, seconds: np.ndarray, search_rows: int
) -> dict[str, object]:
    """Coordinate search over the discrete choices, each candidate judged by a short fit on a thinned table."""
    chosen = {name: options[0] for name, options in family.choices.items()}
    if all(len(options) == 1 for options in family.choices.values()):
        return chosen
    thin = np.random.default_rng(0).permutation(len(seconds))[:search_rows]
    rows, seconds = take(rows, thin), seconds[thin]
    start = {name: parameter.start for name, parameter in family.parameters.items()}
    best_start, best = _least_squares(family, device, rows, seconds, start, chosen, evaluations=12)
    for name, options in family.choices.items():
        for option in options[1:]:
            trial = chosen | {name: option}
            parameters, loss = _least_squares(family, device, rows, seconds, best_start, trial, evaluations=8)
            if loss < best * (1 - 1e-3):
                chosen, best, best_start = trial, loss, parameters
    return chosen


def _least_squares(
    family: Family,
    device: Device,
    rows: Rows,
    seconds: np.ndarray,
    start: Mapping[str, float],
    choices: Mapping[str, object],
    evaluations: int,
) -> tuple[dict[str, float], float]:
    """Soft-L1 fit of log seconds from ``start``; parameters and the loss per row."""
    names = tuple(family.parameters)
    low, high = np.log([(p.low, p.high) for p in family.parameters.values()]).T
    centre = np.log([p.start for p in family.parameters.values()])
    pull = np.array([LOSS_SCALE / p.spread if p.spread else 0.0 for p in family.parameters.values()])
    log_seconds = np.log(seconds)
    counts = np.concatenate([np.broadcast_to(rows.get("weight", 1.0), len(seconds)), np.ones(len(names))])

    def residuals(x: np.ndarray, at: Rows = rows) -> np.ndarray:
        predicted = family.predict(device, at, dict(zip(names, np.exp(x), strict=True)), choices)
        return np.concatenate([np.log(predicted) - log_seconds, pull * (x - centre)])

    def jacobian(x: np.ndarray) -> np.ndarray:
        at = rows
        if family.select is not None:
            at = family.select(device, rows, dict(zip(names, np.exp(x), strict=True)), choices)
        here, step = residuals(x, at), 1e-4
        return np.stack([(residuals(x + step * unit, at) - here) / step for unit in np.eye(len(x))], axis=1)

    x = np.clip(np.log([start[name] for name in names]), low, high)
    x, loss = soft_l1_minimum(residuals, jacobian, counts, x, low, high, evaluations)
    return dict(zip(names, np.exp(x).tolist(), strict=True)), loss / len(seconds)


def groups_of(family: Family, table: object) -> Sequence[tuple[dict[str, str], np.ndarray]]:
    """(key, row numbers) of every kernel in a DataFrame: one combination of the family's group columns each."""
    found = table.groupby(list(family.group), sort=True, dropna=False).indices
    return [(dict(zip(family.group, map(str, values), strict=True)), index) for values, index in found.items()]
