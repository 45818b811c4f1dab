"""Kernel and collective figures among published ones: predicted by the cost models, in the unit of the entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from moesim.hardware.device import Hardware
from moesim.study.entries.reading.entry import Entry
from moesim.study.validation.kernels.published import published_kernels
from moesim.study.validation.kernels.published_exchanges import published_exchanges

_RATES = ("TFLOP", "GB/s", "TB/s")


def predict_kernels(entries: Sequence[Entry], lookup: Callable[[str], Hardware]) -> pd.DataFrame:
    """Columns id, predicted, low, high, assumed: one row an entry that the kernels' models can predict.

    lookup: profile by name. The entries' values are not read: each is taken as one unit, whose seconds tell what a
    predicted time is in that unit.
    """
    figures = [_figure(entry) for entry in entries if entry.kind in ("kernel", "collective")]
    readers = {"kernel": published_kernels, "collective": published_exchanges}
    tables = [read(figures, lookup) for kind, read in readers.items() if any(f["kind"] == kind for f in figures)]
    rows = [_row(record, figures) for table in tables for record in table.to_dict("records")]
    return pd.DataFrame(rows, columns=["id", "predicted", "low", "high", "assumed"])


def _figure(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id, "source": entry.source, "kind": entry.kind, "hardware": entry.hardware,
        "num_devices": entry.devices or 0, "precision": entry.precision, "batch": entry.batch,
        "software": entry.software, "metric": entry.metric, "unit": entry.unit, "note": entry.note, "value": 1.0,
    }  # fmt: skip


def _row(record: dict[str, object], figures: Sequence[dict[str, object]]) -> dict[str, object]:
    unit = next(str(figure["unit"]) for figure in figures if figure["id"] == record["id"])
    one, seconds = float(record["published_s"]), float(record["predicted_s"])
    low, high = (float(record.get(name, np.nan)) for name in ("low_s", "high_s"))
    if any(rate in unit for rate in _RATES):
        values = (one / seconds, one / high, one / low)
    else:
        values = (seconds / one, low / one, high / one)
    # Exchanges come without an interval; their models' own errors are in reports/validation.md.
    predicted = values[0]
    low = values[1] if np.isfinite(values[1]) else 0.7 * predicted
    high = values[2] if np.isfinite(values[2]) else 1.4 * predicted
    return {"id": record["id"], "predicted": predicted, "low": low, "high": high, "assumed": str(record["note"] or "")}
