"""Tables of measurements: reading them, and naming what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moesim.cost.family import Family
from moesim.cost.table_kinds import KINDS, kind_of
from moesim.errors import InvalidInput, Problem

# Columns where 0 means something: no window, as many KV heads as heads, no earlier tokens, all SMs.
_MAY_BE_ZERO = ("num_kv_heads", "window_size", "step", "sms")
_TEXT = ("hardware", "software", "kernel", "dtype", "kv_cache_dtype", "phase", "op", "distribution")


def read_table(path: str | Path) -> pd.DataFrame:
    """A table from a Parquet or CSV file. Raises InvalidInput with the file's name."""
    path = Path(path)
    try:
        if path.suffix in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InvalidInput(Problem(f"cannot be read: {error}", file=str(path))) from error
    raise InvalidInput(Problem("write a .parquet or .csv table", file=str(path)))


def table_kind(table: pd.DataFrame, path: str | Path = "") -> str:
    """`kind_of` a table's columns, with the file in the message of the error."""
    try:
        return kind_of(table.columns)
    except InvalidInput as error:
        raise InvalidInput(Problem(str(error), file=str(path))) from None


def families_of(table: pd.DataFrame, kind: str) -> list[tuple[Family, np.ndarray]]:
    """(family, row numbers) for the rows of each phase; rows of an unknown phase are in none."""
    phases = KINDS[kind]
    if "" in phases:
        return [(phases[""], np.arange(len(table)))]
    return [(family, np.flatnonzero(table["phase"] == phase)) for phase, family in phases.items()]


def unusable(table: pd.DataFrame, kind: str) -> np.ndarray:
    """[rows] why a row cannot be predicted, "" where it can: missing or impossible sizes, a phase of no kernel."""
    phases = KINDS[kind]
    reason = np.full(len(table), "", dtype=object)
    if "" not in phases:
        known = table["phase"].isin(list(phases))
        reason[~known.to_numpy()] = f"phase must be one of {', '.join(phases)}"
    for column in next(iter(phases.values())).columns:
        if column in _TEXT:
            bad, rule = table[column].isna(), "is missing"
        elif column in _MAY_BE_ZERO:
            bad, rule = pd.to_numeric(table[column], errors="coerce") < 0, "must not be negative"
        else:
            number = pd.to_numeric(table[column], errors="coerce")
            bad, rule = ~(np.isfinite(number) & (number > 0)), "must be a positive number"
        reason[bad.to_numpy() & (reason == "")] = f"{column} {rule}"
    return reason
