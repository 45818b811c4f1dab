"""What studies over weeks share: recorded failures, rows of finished seeds, and how figures spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.files import whole_file
from moesim.resilience.failures import Failure, FailureClass
from moesim.spec.reading.loading import Document


def recorded_failures(name: str | None, classes: Iterable[FailureClass], document: Document) -> tuple[Failure, ...]:
    """Failures of the CSV file that a scenario names under ``failures.log``; () without one."""
    if name is None:
        return ()
    path = Path(document.file).parent / name
    try:
        rows = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(Problem(f"cannot read {path}: {error}", "failures.log")) from None
    known = {of.name: of for of in classes}
    absent = [column for column in ("hours", "scope") if column not in rows]
    if absent:
        raise InvalidInput(Problem(f"{path} has no column {absent[0]}", "failures.log"))
    for number, scope in enumerate(rows["scope"], 2):
        if scope not in known:
            told = f"{path}:{number}: state failures.{scope} too, for its repair time"
            raise InvalidInput(Problem(told, "failures.log"))
    times = rows["hours"].to_numpy(dtype=float) * 3600
    if (np.diff(times) < 0).any() or not (times >= 0).all():
        raise InvalidInput(Problem(f"{path}: hours must rise from 0 on", "failures.log"))
    return tuple(Failure(known[scope], 0, at) for scope, at in zip(rows["scope"], times.tolist(), strict=True))


class KeptSeeds:
    """Rows of finished seeds, in memory and, if asked for, in a file that is always whole."""

    def __init__(self, folder: Path | None, key: str):
        self._path = None if folder is None else folder / f"seeds-{key}.json"
        self.rows: dict[int, dict[str, object]] = {}
        if self._path is not None and self._path.is_file():
            found = pd.read_json(self._path, orient="records", precise_float=True)
            self.rows = {int(row["seed"]): row for row in found.to_dict("records")}

    def add(self, number: int, row: dict[str, object]) -> None:
        """Keep one more."""
        self.rows[number] = row
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as partial:
                self.table().to_json(partial, orient="records", double_precision=15)

    def table(self) -> pd.DataFrame:
        """One row a seed."""
        table = pd.DataFrame([self.rows[number] for number in sorted(self.rows)])
        failures = [column for column in table if str(column).endswith("_failures")]
        return table.fillna(dict.fromkeys(failures, 0))


def spread(values: pd.Series) -> dict[str, float]:
    """Mean over seeds, its 80 % range, and the worst and best run."""
    if values.empty:
        return {}
    low, high = np.percentile(values, (10, 90))
    found = {"mean": values.mean(), "p10": low, "p90": high, "least": values.min(), "most": values.max()}
    return {name: float(value) for name, value in found.items()}
