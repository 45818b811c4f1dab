"""How far fitted cost models can be trusted: held-out shapes, borrowed hardware, intervals, physical floors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.cost.calibration import answer, lend
from moesim.cost.family import Family, Rows
from moesim.cost.fitting import conformal_interval, groups_of, shape_folds
from moesim.cost.machine import Machine
from moesim.cost.table_kinds import FAMILIES
from moesim.hardware.device import Hardware


def judged(rows: pd.DataFrame, lookup: Callable[[str], Hardware], siblings: Mapping[str, str]) -> pd.DataFrame:
    """`Calibration.rows` of any hardware, with what each way of predicting makes of them, in seconds.

    lookup: profiles by name, which hold the fits. Columns added: low_s, high_s (80 % interval of a held-out row, from
    the residuals of the other folds), sibling_s, sibling_low_s, sibling_high_s (the fits of ``siblings[hardware]`` on
    this device; NaN where the sibling has not measured the kernel), default_s, default_low_s, default_high_s (stated
    defaults), floor_s (bytes and FLOPs at datasheet rates).
    """
    parts = []
    for (name, family_name), some in rows.groupby(["hardware", "family"]):
        device, family = lookup(name).device, FAMILIES[family_name]
        fits = lend(lookup(siblings[name]), lookup(name), lookup) if name in siblings else {}
        borrower = Machine(device, None, fits, "like", graphs=False)
        for key, positions in groups_of(family, some):
            part = some.iloc[positions]
            data = {column: part[column].to_numpy() for column in (*family.columns, family.measured)}
            parts.append(part.assign(**_held_out(family, data, part), **_without_fits(borrower, family, data, key)))
    return pd.concat(parts)


def _held_out(family: Family, data: Rows, part: pd.DataFrame) -> dict[str, np.ndarray]:
    """Intervals of held-out predictions: each fold's from the residuals of the others."""
    held_out = part["held_out_s"].to_numpy()
    low, high = np.full(len(part), np.nan), np.full(len(part), np.nan)
    if np.isfinite(held_out).all():
        fold = shape_folds(family, data, 5)
        residual = np.log(data[family.measured] / held_out)
        for index in range(fold.max() + 1):
            here = fold == index
            factors = conformal_interval(residual[~here])
            low[here], high[here] = held_out[here] * factors[0], held_out[here] * factors[1]
    return {"low_s": low, "high_s": high}


def _without_fits(borrower: Machine, family: Family, data: Rows, key: dict[str, str]) -> dict[str, np.ndarray]:
    """Predictions with the sibling's fit of the same kernel, with the stated defaults, and the floors."""
    wanted = {column: value for column, value in key.items() if column != "hardware"}
    lent = answer(borrower, family, data, wanted)
    same = lent.fits[0].key == wanted
    default = answer(replace(borrower, fits={}), family, data, wanted)
    values = {"floor_s": default.floor_s}
    for label, found, known in (("sibling", lent, same), ("default", default, True)):
        cost = found.cost
        for name, value in (("", cost.seconds), ("_low", cost.low), ("_high", cost.high)):
            values[f"{label}{name}_s"] = value if known else np.full(len(value), np.nan)
    return values


def errors(rows: pd.DataFrame, predicted: str, low: str, high: str, measured: str = "latency_s") -> dict[str, float]:
    """Of the rows that have a prediction: how many, median, P90 and mean absolute error, coverage, width.

    Fractions; coverage is the share of measurements inside low..high, width the median of high over low.
    """
    known = rows[np.isfinite(rows[predicted])]
    if known.empty:
        return {"rows": 0}
    error = np.abs(known[predicted] / known[measured] - 1)
    return {
        "rows": len(known),
        "median": float(error.median()),
        "p90": float(error.quantile(0.9)),
        "mape": float(error.mean()),
        "coverage": float(((known[low] <= known[measured]) & (known[measured] <= known[high])).mean()),
        "width": float((known[high] / known[low]).median()),
    }
