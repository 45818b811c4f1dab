"""Published figures as scenario files: writing the case of an entry as one, and judging a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, MoesimError, Problem
from moesim.spec.reading.loading import Document, read
from moesim.spec.step.expected import Expected
from moesim.study.entries.calibration.factors import Calibration, load_calibration
from moesim.study.entries.prediction.predict import one_line, predict_case
from moesim.study.entries.reading.case import Case, NotStated
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.quantity import quantity
from moesim.study.entries.runs.documents import document_of, text_of
from moesim.study.entries.runs.runner import Runner

_SCHEMAS = {"load": "serving", "training": "training"}


def scenario_text(case: Case, entry: Entry, value: float, description: str) -> str:
    """The file of a case. value: as published; it stands in the file and never enters a prediction."""
    expected = {
        "id": entry.id,
        "source": entry.source,
        "metric": entry.metric,
        "value": float(value),
        "unit": entry.unit,
        "stack": case.stack,
    }
    optional = {"age": case.age, "kept": case.kept, "devices": case.devices}
    default = {"age": None, "kept": 1.0, "devices": None}
    expected |= {name: given for name, given in optional.items() if given != default[name]}
    if case.assumed:
        expected["assumed"] = list(case.assumed)
    kind = "load" if "load" in case.document else case.document["workload"]["kind"]
    schema = _SCHEMAS.get(kind, "scenario")
    data = {"description": description} | dict(case.document) | {"expected": expected}
    return f"# yaml-language-server: $schema=../../docs/schema/{schema}.json\n{text_of(data)}"


def case_of_file(document: Document) -> tuple[Case, Expected]:
    """The case of a scenario file that expects a published figure. Raises InvalidInput where it expects none."""
    stated = document.data.get("expected")
    if not isinstance(stated, Mapping):
        raise InvalidInput(
            Problem("missing; a file to validate states the published figure", "expected", document.file)
        )
    expected = document_of(dict(stated), Path(document.file).stem).check(Expected)
    wanted, why = quantity(expected.metric, expected.unit)
    if wanted is None:
        raise NotStated(why)
    if wanted.what == "speedup":
        raise NotStated("a speed-up needs two scenarios")
    data = {key: value for key, value in document.data.items() if key not in ("expected", "description")}
    case = Case(
        expected.id,
        data,
        wanted,
        expected.stack,
        expected.assumed,
        age=expected.age,
        kept=expected.kept,
        devices=expected.devices,
    )
    return case, expected


def validate_folder(
    folder: Path,
    runner: Runner,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """One row a scenario file of a folder, worst error first.

    Columns: scenario, id, source, kind, metric, unit, value, predicted, simulated, low, high, error, assumed, reason.
    simulated: without the stack's calibration. Raises InvalidInput when the folder holds no scenario files.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InvalidInput(Problem("holds no scenario files", file=str(folder)))
    calibration = calibration or load_calibration()
    rows = []
    for done, path in enumerate(paths, start=1):
        rows.append(_row(path, runner, calibration))
        if progress is not None:
            progress(done, len(paths))
    table = pd.DataFrame(rows)
    table["error"] = table["predicted"] / table["value"] - 1
    order = table["error"].abs().sort_values(ascending=False, na_position="first").index
    return table.loc[order].reset_index(drop=True)


def _row(path: Path, runner: Runner, calibration: Calibration) -> dict[str, object]:
    document = read(path)
    case, expected = case_of_file(document)
    row: dict[str, object] = {
        "scenario": path.stem,
        "id": expected.id,
        "source": expected.source,
        "kind": "training" if case.document.get("workload", {}).get("kind") == "training" else "inference",
        "metric": expected.metric,
        "unit": expected.unit,
        "value": expected.value,
    }
    try:
        found, plain = predict_case(case, runner, calibration), predict_case(case, runner, Calibration())
    except MoesimError as error:
        nothing = dict.fromkeys(("predicted", "simulated", "low", "high"), np.nan)
        return row | nothing | {"assumed": "; ".join(case.assumed), "reason": one_line(str(error))}
    return row | {
        "predicted": found.predicted,
        "simulated": plain.predicted,
        "low": found.low,
        "high": found.high,
        "assumed": found.assumed,
        "reason": "",
    }
