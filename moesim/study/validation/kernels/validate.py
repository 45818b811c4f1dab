"""Judge cost models by measurements: predict every row of a table, then compare where a time was measured.

Predictions come from the columns that describe the work. A measured column may be absent and never has an influence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

import moesim
from moesim.cost.calibration import Answer, answer, machine_for
from moesim.cost.family import Family
from moesim.cost.fitting import groups_of
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.study.validation.tables import families_of, table_kind, unusable

MEASURED = "latency_s"
ADDED = ("predicted_s", "low_s", "high_s", "note", "reason")
_CHUNK = 20_000  # rows predicted at once, which bounds the memory that a search over tiles takes


def sample_tables() -> tuple[Path, ...]:
    """The measured tables that ship with the package, one of each kind."""
    return tuple(sorted((Path(moesim.__file__).parent / "data" / "measured").glob("*.parquet")))


def predict_table(table: pd.DataFrame, lookup: Callable[[str], Hardware]) -> pd.DataFrame:
    """The table with `ADDED` columns: seconds, an 80 % interval, and words.

    lookup: profile by name; raises InvalidInput for an unknown one. note: what the reader should know about a
    prediction (borrowed, uncalibrated, stand-in kernel, outside the calibrated range). reason: why a row could not be
    predicted; its numbers are NaN. Raises InvalidInput when the columns match no kind of table.
    """
    kind = table_kind(table)
    reason = unusable(table, kind)
    number = {column: np.full(len(table), np.nan) for column in ADDED[:3]}
    note = np.full(len(table), "", dtype=object)
    machine_of = cache(lambda name: machine_for(lookup(name), None, lookup, graphs=False))
    for family, members in families_of(table, kind):
        usable = members[reason[members] == ""]
        for key, positions in groups_of(family, table.iloc[usable]):
            index = usable[positions]
            try:
                machine = machine_of(key["hardware"])
                found = _answer_chunks(machine, family, table, index, key)
            except InvalidInput as error:
                reason[index] = str(error)
                continue
            for part, given in found:
                number["predicted_s"][part] = given.cost.seconds
                number["low_s"][part], number["high_s"][part] = given.cost.low, given.cost.high
                note[part] = _notes(machine, given, key)
    return table.assign(**number, note=note, reason=reason)


def _answer_chunks(
    machine: Machine, family: Family, table: pd.DataFrame, index: np.ndarray, key: dict[str, str]
) -> list[tuple[np.ndarray, Answer]]:
    found = []
    for part in np.array_split(index, max(1, len(index) // _CHUNK)):
        rows = {column: table[column].to_numpy()[part] for column in family.columns}
        found.append((part, answer(machine, family, rows, key)))
    return found


def _notes(machine: Machine, given: Answer, key: dict[str, str]) -> np.ndarray:
    """[rows] what a reader should know about each prediction."""
    of_fit = []
    for fit in given.fits:
        words = []
        if not fit.key:
            words.append("uncalibrated: stated defaults")
        elif machine.origin.startswith("like"):
            words.append(f"calibrated {machine.origin}")
        if fit.key and any(fit.key.get(column, value) != value for column, value in key.items()):
            words.append(f"nearest measured kernel: {' '.join(fit.key.values())}")
        of_fit.append("; ".join(words))
    notes = np.array(of_fit, dtype=object)[given.which]
    outside = np.where(given.outside > 0, "outside the calibrated range", "")
    return np.array(["; ".join(filter(None, pair)) for pair in zip(notes, outside, strict=True)], dtype=object)


def statistics(
    predicted: pd.DataFrame, by: Sequence[str] = ("hardware", "software"), measured: str = MEASURED
) -> pd.DataFrame:
    """How good predictions are, one row a combination of ``by`` columns and one for ``all`` of them.

    Columns: rows, refused, median_ape, mape, p90_ape, bias (median of predicted/measured - 1), rank_correlation
    (Spearman), coverage (share inside low_s..high_s), width (median of high_s/low_s); fractions, NaN where nothing was
    measured.
    """
    by = [column for column in by if column in predicted]
    parts = [(dict.fromkeys(by, "all"), predicted)]
    if by:
        grouped = predicted.groupby(by, sort=True, dropna=False)
        parts = [(dict(zip(by, values, strict=True)), part) for values, part in grouped] + parts
    return pd.DataFrame([labels | _statistics(part, measured) for labels, part in parts])


def _statistics(part: pd.DataFrame, measured: str) -> dict[str, float]:
    refused = int((part["reason"] != "").sum())
    counts = {"rows": len(part), "refused": refused}
    if measured not in part:
        return counts
    known = part[(part["reason"] == "") & np.isfinite(part[measured]) & (part[measured] > 0)]
    if known.empty:
        return counts
    seconds, predicted = known[measured].to_numpy(float), known["predicted_s"].to_numpy(float)
    error = predicted / seconds - 1
    inside = (known["low_s"] <= seconds) & (seconds <= known["high_s"])
    return counts | {
        "median_ape": float(np.median(np.abs(error))),
        "mape": float(np.mean(np.abs(error))),
        "p90_ape": float(np.quantile(np.abs(error), 0.9)),
        "bias": float(np.median(error)),
        "rank_correlation": float(pd.Series(predicted).corr(pd.Series(seconds), method="spearman")),
        "coverage": float(np.mean(inside)),
        "width": float(np.median(known["high_s"] / known["low_s"])),
    }
