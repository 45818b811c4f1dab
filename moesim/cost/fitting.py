"""Fit physical cost models to measured kernels, and say honestly how well they do.

A cost model is a `Family`: an equation with a few positive parameters, the bounds that physics sets, and the columns of
the table that it explains. Everything else here is the same for all families: fitting, leaving shapes out, intervals.

How to write one (`moesim.cost.gemm` is the example):

1. ``predict(device, rows, parameters, choices) -> [rows] seconds``: the equation, vectorised. ``rows`` maps column
   names to arrays of equal length; ``parameters`` maps names to floats; ``choices`` maps the names of discrete choices
   to one of their options. It must work for any positive parameter inside its bounds and any row of the table.
2. ``bounds(device, rows) -> (memory_s, compute_s)``: the bytes that must move at datasheet bandwidth and the FLOPs that
   must run at datasheet peak. No prediction is ever below either.
3. ``parameters``: `Parameter`s. ``start`` doubles as the stated default of an uncalibrated device, so give it a source.
   Relative quantities (share of peak, share of bandwidth) carry over to sibling hardware, absolute times do too.
   Call the fixed time of one launch ``t0``: it decides whether a cost counts as limited by launch.
4. ``choices``: few discrete options (tile rule, split-K), first option = default. All are refitted in every fold.
5. Optional ``prepare(device, rows) -> rows``: adds columns that are dear to compute and do not depend on parameters; it
   must leave rows that it has prepared before as they are. A column ``weight`` says how much each row counts in the
   fit (1 without it): less where the row's input is known less well.
6. Optional ``select(device, rows, parameters, choices) -> rows``: adds columns that hold the kernel's own choice at
   these parameters (the fastest tile of each row); ``predict`` then uses these columns instead of searching. The
   derivative of a minimum is the derivative at its argument, so the Jacobian needs no search: ten times faster.
7. Optional ``starts(key) -> {parameter: start}``: generic values that differ by kind of kernel, known from its key.
8. Optional ``host``: ``{parameter: seconds}`` of it that are the device's; the rest is the host's where it launches.

Fits minimise a soft-L1 loss of log(prediction / measurement), because measured tables hold isolated rows several times
too slow (failed kernel choices), which squares would chase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.device import Device

Rows = Mapping[str, np.ndarray]

COVERAGE = 0.8  # of every interval
LOSS_SCALE = 0.1  # log error from which the loss grows linearly: kernels repeat to some 5 %
# How much wider than its held-out residuals an interval is, from a trial on the same tables (P90 errors in brackets).
UNCALIBRATED = (0.5, 2.0)  # of a device that nobody measured (another GPU generation: 49-63 %)
ONE_SHAPE = 1.2  # half-width in logs, when no shape could be held out (experts: 26 to 31 %)
BORROWED = 1.35  # half-width in logs, when a sibling's fit is used (products: 18 to 28 %)
PER_DOUBLING = 0.10  # added to both half-widths for each doubling outside the calibrated range; a choice of ours


@dataclass(frozen=True, slots=True)
class Parameter:
    """One positive number of an equation, fitted as its logarithm between ``low`` and ``high``.

    start: generic value, where every fit begins and the default of an uncalibrated device. spread: standard deviation
    in log units of a prior around ``start`` that is worth one row (0 = no prior); it keeps a parameter that the data do
    not constrain at a sane value.
    """

    start: float
    low: float
    high: float
    unit: str
    meaning: str
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Variant:
    """The equation of another kind of device for the tables of a family: as in `Family`, without discrete choices."""

    predict: Callable[[Device, Rows, Mapping[str, float], Mapping[str, object]], np.ndarray]
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Family:
    """A cost model and the kind of table it explains. See the module's page for the contract of the functions.

    columns: what a table must have to be of this kind (groups and shapes included, the measured time not). group: the
    columns whose combinations are fitted one by one. shape: columns that define a shape; a whole shape is held out at
    once. size: the column that figures draw residuals against. numeric: columns whose calibrated range is recorded.
    """

    name: str
    columns: tuple[str, ...]
    shape: tuple[str, ...]
    size: str
    numeric: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    predict: Callable[[Device, Rows, Mapping[str, float], Mapping[str, object]], np.ndarray]
    bounds: Callable[[Device, Rows], tuple[np.ndarray, np.ndarray]]
    choices: Mapping[str, tuple] = field(default_factory=dict)
    group: tuple[str, ...] = ("hardware", "software", "kernel", "dtype")
    measured: str = "latency_s"
    prepare: Callable[[Device, Rows], Rows] | None = None
    select: Callable[[Device, Rows, Mapping[str, float], Mapping[str, object]], Rows] | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)  # Device.kind -> its own equation
    starts: Callable[[Mapping[str, str]], Mapping[str, float]] | None = None
    host: Mapping[str, float] = field(default_factory=dict)  # see `moesim.cost.launch`


def family_on(family: Family, device: Device) -> Family:
    """The family with the equation of a device's kind."""
    variant = family.variants.get(device.kind)
    if variant is None:
        return family
    own = {"predict": variant.predict, "parameters": variant.parameters}
    return replace(family, **own, choices={}, select=None, variants={}, starts=None, host={})


@dataclass(frozen=True, slots=True)
class Fit:
    """The fitted numbers of one kernel, as a profile stores them.

    key: the group columns without hardware (software, kernel, dtype …), empty for stated defaults. interval: factors on
    the prediction that hold ``COVERAGE`` of held-out measurements. range: calibrated (smallest, largest) of numeric
    columns. error: median and P90 absolute percentage error as fractions, on held-out shapes where ``held_out``, else
    in sample. host_s: seconds of each parameter that are the host's launches, where it launches (`moesim.cost.launch`).
    """

    family: str
    key: Mapping[str, str]
    parameters: Mapping[str, float]
    choices: Mapping[str, object]
    points: int = 0
    shapes: int = 0
    error: tuple[float, float] = (np.nan, np.nan)
    held_out: bool = False
    interval: tuple[float, float] = UNCALIBRATED
    range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """[rows] seconds, 80 % interval, the two bounds, and the doublings that a row lies outside the calibrated range."""

    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    memory_s: np.ndarray
    compute_s: np.ndarray
    outside: np.ndarray


def default_fit(family: Family) -> Fit:
    """The stated defaults of a family: every parameter at its start, a wide interval, no calibrated range."""
    parameters = {name: parameter.start for name, parameter in family.parameters.items()}
    return Fit(family.name, {}, parameters, {name: options[0] for name, options in family.choices.items()})


def predict(family: Family, device: Device, rows: Rows, fit: Fit) -> Prediction:
    """Predict rows (all of one kernel) with a fit: never below the bounds, wider outside the calibrated range."""
    family = family_on(family, device)
    if family.prepare is not None:
        rows = family.prepare(device, rows)
    memory_s, compute_s = family.bounds(device, rows)
    least = np.maximum(memory_s, compute_s)
    seconds = np.maximum(family.predict(device, rows, fit.parameters, fit.choices), least)
    outside = doublings_outside(rows, fit.range)
    low = np.maximum(seconds * fit.interval[0] * np.exp(-PER_DOUBLING * outside), np.minimum(least, seconds))
    high = seconds * fit.interval[1] * np.exp(PER_DOUBLING * outside)
    return Prediction(seconds, low, high, memory_s, compute_s, outside)


def _started(family: Family, key: Mapping[str, str]) -> Family:
    """The family with the generic values of one kernel as starts."""
    if family.starts is None:
        return family
    own = {name: replace(family.parameters[name], start=start) for name, start in family.starts(key).items()}
    return replace(family, parameters={**family.parameters, **own})


def doublings_outside(rows: Rows, calibrated: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """[rows] how far a row lies outside the calibrated range: doublings, summed over columns; 0 inside."""
    total = np.zeros(len(next(iter(rows.values()))))
    for column, (low, high) in calibrated.items():
        if column in rows:
            value = np.maximum(np.asarray(rows[column], dtype=float), 1.0)
            low, high = max(low, 1.0), max(high, 1.0)
            total += np.maximum(np.log2(value / high), 0) + np.maximum(np.log2(low / value), 0)
    return total


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
    x, loss = _levenberg_marquardt(residuals, jacobian, counts, x, low, high, evaluations)
    return dict(zip(names, np.exp(x).tolist(), strict=True)), loss / len(seconds)


def _levenberg_marquardt(
    residuals: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    evaluations: int,
) -> tuple[np.ndarray, float]:
    """Minimise the soft-L1 loss of residuals, each taken ``counts`` times, inside a box; (x, loss).

    Levenberg (1944), Marquardt (1963) on the normal equations, rows weighted by the slope of the loss, parameters held
    at a bound that they push against. With ten parameters and thousands of rows this takes a tenth of the time of
    `scipy.optimize.least_squares`, whose steps each factor the whole Jacobian.
    """

    def loss_and_weight(r: np.ndarray) -> tuple[float, np.ndarray]:
        root = np.sqrt(1 + (r / LOSS_SCALE) ** 2)
        return float(np.sum(counts * (root - 1))) * LOSS_SCALE**2, counts / root

    r = residuals(x)
    loss, weight = loss_and_weight(r)
    damping, spent = 1e-2, 1
    while spent < evaluations and damping < 1e6:
        slopes = jacobian(x)
        gradient = slopes.T @ (weight * r)
        free = ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))
        slopes, gradient = slopes[:, free], gradient[free]
        curvature = slopes.T @ (weight[:, None] * slopes)
        before = loss
        while spent < evaluations and damping < 1e6:
            scaled = curvature + np.diag(damping * (np.diag(curvature) + 1e-9))
            trial = x.copy()
            trial[free] = np.clip(x[free] - np.clip(np.linalg.solve(scaled, gradient), -2, 2), low[free], high[free])
            trial_r = residuals(trial)
            trial_loss, trial_weight = loss_and_weight(trial_r)
            spent += 1
            if trial_loss < loss:
                x, r, loss, weight, damping = trial, trial_r, trial_loss, trial_weight, damping / 4
                break
            damping *= 5
        if before - loss < 1e-5 * before:
            break
    return x, loss


def groups_of(family: Family, table: object) -> Sequence[tuple[dict[str, str], np.ndarray]]:
    """(key, row numbers) of every kernel in a DataFrame: one combination of the family's group columns each."""
    found = table.groupby(list(family.group), sort=True, dropna=False).indices
    return [(dict(zip(family.group, map(str, values), strict=True)), index) for values, index in found.items()]
