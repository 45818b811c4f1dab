"""Run what claims need, each measurement once, and keep every result as soon as it is there.

A result is one JSON file named by the hash of all that it depends on (`Measurement.key`), put in place whole: an
interrupted run goes on where it stopped, claims share measurements, and a changed scenario is measured anew.
"""

from __future__ import annotations

import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moesim.errors import Infeasible, InvalidInput, Problem
from moesim.files import write_text
from moesim.spec.reading.loading import read
from moesim.study.claims.measures import MEASURES
from moesim.study.claims.reading import Claim, Measurement
from moesim.study.results.record import rounded
from moesim.study.sweeps.schedulers import WorkerDied, executor

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a measurement. status: ok, infeasible (figures are empty, reason says why), unavailable (a package
    is missing; not kept), invalid or failed.

    figures: nested mappings down to numbers. cpu_s: of the process that measured.
    """

    status: str
    reason: str
    figures: Mapping[str, object]
    cpu_s: float = 0.0


def measure_all(
    claims: Iterable[Claim], folder: str | Path, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, Measured]:
    """Results by key of all measurements of the claims; those that `folder` holds are read, not run.

    Raises InvalidInput with every measurement that is wrong, after the others are kept.
    """
    wanted = {run.key: run for claim in claims for point in claim.points for run in point.runs.values()}
    place = Path(folder) / "measurements"
    found = {key: kept for key in wanted if (kept := read_kept(place, key)) is not None}
    missing = [run for key, run in wanted.items() if key not in found]
    show = progress or (lambda done, total: None)
    show(len(found), len(wanted))
    if missing:
        place.mkdir(parents=True, exist_ok=True)
        for key, result in _answers(missing, min(jobs, len(missing))):
            found[key] = result
            if result.status in ("ok", "infeasible"):
                _keep(place, key, result)
            show(len(found), len(wanted))
    _refuse([(wanted[key], result) for key, result in found.items()])
    return found


def read_kept(place: Path, key: str) -> Measured | None:
    """A kept result; None where there is none, or not a whole one."""
    try:
        return Measured(**json.loads((place / f"{key}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure(run: Measurement) -> tuple[str, Measured]:
    """(key, result) of one measurement."""
    begin = time.process_time()
    try:
        figures = numbers(MEASURES[run.kind](run.file, **run.options))
        found = "ok", "", figures
    except Infeasible as error:
        found = "infeasible", str(error), {}
    except ModuleNotFoundError as error:
        found = "unavailable", f"needs {error.name}; pip install 'moesim[lab]'", {}
    except InvalidInput as error:
        found = "invalid", str(error), {}
    except Exception:
        found = "failed", traceback.format_exc(), {}
    return run.key, Measured(*found, cpu_s=time.process_time() - begin)


def numbers(data: Mapping[str, object]) -> dict[str, object]:
    """The numbers of nested mappings; texts, lists and None are left out."""
    kept: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            kept[str(key)] = numbers(value)
        elif isinstance(value, (int, float)):
            kept[str(key)] = rounded(float(value))
    return kept


def _answers(missing: list[Measurement], jobs: int) -> Iterable[tuple[str, Measured]]:
    if jobs == 1:
        yield from map(measure, missing)
        return
    try:
        with warnings.catch_warnings(), executor(None, jobs) as execute:
            # joblib replaces processes whose memory grew; what they were about to do is done by the next.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            yield from execute(measure, missing)
    except WorkerDied:
        told = "a process died (out of memory?); the others' results are kept, so give the command again with --jobs 1"
        raise InvalidInput(Problem(told, "--jobs")) from None


def _keep(place: Path, key: str, result: Measured) -> None:
    data = {"status": result.status, "reason": result.reason, "figures": result.figures, "cpu_s": result.cpu_s}
    write_text(place / f"{key}.json", json.dumps(data, ensure_ascii=False, allow_nan=False))


def _refuse(found: list[tuple[Measurement, Measured]]) -> None:
    if failed := [result.reason for _, result in found if result.status == "failed"]:
        raise RuntimeError(f"{len(failed)} measurements failed; the first:\n{failed[0]}")
    wrong = [(run, result) for run, result in found if result.status == "invalid"]
    if wrong:
        problems = [read(run.file).problem(run.field, result.reason) for run, result in wrong]
        raise InvalidInput(dict.fromkeys(problems))
