"""How good predictions of published figures are: errors, and whether they order the figures of a source rightly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

RANKED_FROM = 5  # entries of one source and unit whose order is judged


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with a value and a prediction, and their ``error``: predicted / value − 1."""
    known = table[np.isfinite(table["predicted"]) & np.isfinite(table["value"]) & (table["value"] != 0)]
    return known.assign(error=known["predicted"] / known["value"] - 1)


def statistics(table: pd.DataFrame, by: Sequence[str] = ("source",)) -> pd.DataFrame:
    """A row a group and one for all: entries, predicted, median and P90 of the absolute error, bias, coverage of the
    intervals, and Spearman's correlation: of the group's unit with most entries, for all the median over groups."""
    by = [column for column in by if column in table]
    rows = []
    if by:
        grouped = table.groupby(by, sort=True)
        for values, part in grouped:
            rows.append(dict(zip(by, values, strict=True)) | _errors(part) | {"spearman": _largest_rank(part)})
    overall = _errors(table) | {"spearman": median_rank(table)}
    return pd.DataFrame([*rows, dict.fromkeys(by, "all") | overall])


def median_rank(table: pd.DataFrame) -> float:
    """Median over sources and units of at least `RANKED_FROM` entries of Spearman's correlation."""
    found = list(rank_correlations(table).values())
    return float(np.median(found)) if found else np.nan


def rank_correlations(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Spearman's correlation by (source, unit)."""
    found = {}
    for key, part in with_errors(table).groupby(["source", "unit"]):
        if len(part) >= RANKED_FROM and part["value"].nunique() > 1 and part["predicted"].nunique() > 1:
            found[key] = float(part["predicted"].corr(part["value"], method="spearman"))
    return found


def _largest_rank(part: pd.DataFrame) -> float:
    by_unit = rank_correlations(part)
    sizes = {key: int((part["unit"] == key[1]).sum()) for key in by_unit}
    return by_unit[max(sizes, key=lambda key: sizes[key])] if sizes else np.nan


def _errors(part: pd.DataFrame) -> dict[str, float]:
    known = with_errors(part)
    found = {"entries": len(part), "predicted": int(np.isfinite(part["predicted"]).sum())}
    if known.empty:
        return found | dict.fromkeys(("median_ape", "p90_ape", "bias", "coverage"), np.nan)
    size = known["error"].abs()
    inside = (known["low"] <= known["value"]) & (known["value"] <= known["high"])
    return found | {
        "median_ape": float(size.median()),
        "p90_ape": float(size.quantile(0.9)),
        "bias": float(known["error"].median()),
        "coverage": float(inside.mean()),
    }
