"""Cost models as values: a `Family` is an equation, its parameters and bounds; a `Fit` is the numbers of one kernel.

A family has an equation with a few positive parameters, the bounds that physics sets, and the columns of the table that
it explains. What is the same for all families is elsewhere: `moesim.cost.fitting` finds the numbers.

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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.hardware.device import Device

Rows = Mapping[str, np.ndarray]

COVERAGE = 0.8  # of every interval
UNCALIBRATED = (0.5, 2.0)  # interval of a device that nobody measured (P90 of another GPU generation: 49-63 %)
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


def doublings_outside(rows: Rows, calibrated: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """[rows] how far a row lies outside the calibrated range: doublings, summed over columns; 0 inside."""
    total = np.zeros(len(next(iter(rows.values()))))
    for column, (low, high) in calibrated.items():
        if column in rows:
            value = np.maximum(np.asarray(rows[column], dtype=float), 1.0)
            low, high = max(low, 1.0), max(high, 1.0)
            total += np.maximum(np.log2(value / high), 0) + np.maximum(np.log2(low / value), 0)
    return total
