"""Predict published figures: an entry becomes a scenario where it states enough, a row with a reason where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from moesim.errors import Infeasible, MoesimError
from moesim.spec.hardware.profile import load_profile
from moesim.study.entries.calibration.factors import Calibration, Factors, load_calibration
from moesim.study.entries.inference.cases import inference_case
from moesim.study.entries.prediction.kernels import predict_kernels
from moesim.study.entries.prediction.quantities import grows_with_time, read, token_seconds
from moesim.study.entries.reading.case import Case, NotStated
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.quantity import quantity
from moesim.study.entries.runs.outcome import Outcome
from moesim.study.entries.runs.runner import Runner
from moesim.study.entries.training.cases import training_case
from moesim.study.entries.training.lighter import lighter, with_recomputation

ADDED = ("predicted", "low", "high", "assumed", "reason")
CONVERTED_KINDS = ("inference", "training")
_SQUEEZES = (1.0, 0.95, 0.9, 0.8)  # of the sequences that the KV cache alone would hold


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """predicted, low, high: in the entry's unit, NaN with a reason. case, outcome: None where there was none."""

    predicted: float = np.nan
    low: float = np.nan
    high: float = np.nan
    assumed: str = ""
    reason: str = ""
    case: Case | None = None
    outcome: Outcome | None = None


def case_of(entry: Entry, runner: Runner) -> Case:
    """The case of an inference or training entry. Raises NotStated or another MoesimError with the reason."""
    wanted, why = quantity(entry.metric, entry.unit)
    if wanted is None:
        raise NotStated(why)
    return training_case(entry, wanted) if entry.kind == "training" else inference_case(entry, wanted, runner)


def predict_entry(entry: Entry, runner: Runner, calibration: Calibration) -> Prediction:
    """Convert, run and read one entry; whatever goes wrong becomes a reason."""
    if entry.kind not in CONVERTED_KINDS:
        return Prediction(reason=f"entries of kind {entry.kind or 'unknown'!r} are no steps or loads")
    case = None
    try:
        case = case_of(entry, runner)
        return predict_case(case, runner, calibration)
    except MoesimError as error:
        assumed = "; ".join(case.assumed) if case else ""
        return Prediction(assumed=assumed, reason=one_line(str(error)), case=case)
    except Exception as error:  # whatever an odd text leads to, it must not end a long run
        return Prediction(reason=f"cannot be converted: {type(error).__name__}: {one_line(str(error))}", case=case)


def predict_case(case: Case, runner: Runner, calibration: Calibration) -> Prediction:
    """Run a case and read its quantity. Raises MoesimError."""
    case, outcome = run_case(case, runner)
    base_s = token_seconds(case, runner.run(case.base)) if case.base is not None else None
    return _prediction(case, outcome, calibration, base_s)


def rescaled(prediction: Prediction, calibration: Calibration) -> Prediction:
    """The prediction under another calibration, without running anything; speed-ups and reasons stay as they are."""
    case, outcome = prediction.case, prediction.outcome
    if case is None or outcome is None or case.base is not None:
        return prediction
    return _prediction(case, outcome, calibration, None)


def _prediction(case: Case, outcome: Outcome, calibration: Calibration, base_s: float | None) -> Prediction:
    factors = calibration.of(case.stack)
    value = read(case, outcome, factors.scale(outcome, case.age), base_s)
    low, high = bounds(case, outcome, value, factors)
    return Prediction(value, low, high, "; ".join(case.assumed), "", case, outcome)


def run_case(case: Case, runner: Runner) -> tuple[Case, Outcome]:
    """The outcome of a case. A training job that does not fit recomputes more until it does, a step of inference does
    without the framework's reserve, and decodes fewer sequences where their number is assumed. Raises MoesimError."""
    try:
        return case, runner.run(case.document)
    except Infeasible:
        if "load" in case.document:
            raise
    if case.document["workload"]["kind"] != "training":
        return _squeezed(case, runner)
    choices = lighter(case.document)
    for document in choices[:-1]:
        try:
            return with_recomputation(case, document), runner.run(document)
        except Infeasible:
            continue
    return with_recomputation(case, choices[-1]), runner.run(choices[-1])


def _squeezed(case: Case, runner: Runner) -> tuple[Case, Outcome]:
    """A step of inference that does not fit, without the reserve; fewer sequences, if how many there are is assumed."""
    note = "memory: all but 1 % for the model, as it would not fit"
    tight = replace(case, document={**case.document, "memory": {"reserve": 0.01}}, assumed=(*case.assumed, note))
    work = case.document["workload"]
    assumed = work["kind"] == "decode" and any("sequences a rank" in text for text in case.assumed)
    for share in _SQUEEZES if assumed else _SQUEEZES[:1]:
        sequences = max(1, int(work["sequences_per_rank"] * share) // 2 * 2)
        fewer = {"workload": {**work, "sequences_per_rank": sequences}} if share < 1 else {}
        last = replace(tight, document={**tight.document, **fewer})
        if fewer:
            last = replace(last, assumed=(*tight.assumed, f"{sequences} sequences beside the buffers of exchanges"))
        try:
            return last, runner.run(last.document)
        except Infeasible as error:
            why = error
    raise why


def bounds(case: Case, outcome: Outcome, value: float, factors: Factors) -> tuple[float, float]:
    """80 % interval: the wider of the stack's held-out errors and of the cost models' own interval."""
    slow = max(factors.interval[1], outcome.high)
    fast = min(factors.interval[0], outcome.low)
    if case.quantity.what == "speedup":
        return value - 15 / 100 / case.quantity.scale, value + 15 / 100 / case.quantity.scale
    if grows_with_time(case):
        return value * fast, value * slow
    return value / slow, value / fast


def predict_entries(
    entries: Sequence[Entry],
    runner: Runner,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> list[Prediction]:
    """Predictions in the order of the entries. progress: called with (entries done, entries). jobs: processes, which
    share the runner's folder of outcomes."""
    calibration = calibration or load_calibration()
    found = []
    for done, prediction in enumerate(_each(entries, runner, calibration, jobs), start=1):
        found.append(prediction)
        if progress is not None:
            progress(done, len(entries))
    return found


def _each(entries: Sequence[Entry], runner: Runner, calibration: Calibration, jobs: int) -> Iterator[Prediction]:
    if jobs == 1:
        return (predict_entry(entry, runner, calibration) for entry in entries)
    from joblib import Parallel, delayed

    tasks = (delayed(predict_entry)(entry, runner, calibration) for entry in entries)
    return Parallel(n_jobs=jobs, return_as="generator")(tasks)


def predict_table(
    entries: Sequence[Entry],
    table: pd.DataFrame,
    runner: Runner,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> pd.DataFrame:
    """The table of `entry.read_entries` with `ADDED` columns, one row an entry of any kind."""
    found = predict_entries(entries, runner, calibration, progress, jobs)
    added = {name: [getattr(p, name) for p in found] for name in ADDED}
    result = table.assign(**added)
    kernels = predict_kernels(entries, load_profile).set_index("id")
    for row, entry in enumerate(entries):
        if entry.id in kernels.index and entry.kind not in CONVERTED_KINDS:
            known = kernels.loc[[entry.id]].iloc[0]
            result.loc[result.index[row], ["predicted", "low", "high", "assumed", "reason"]] = [*known, ""]
    return result


def converted_share(table: pd.DataFrame) -> float:
    """Share of all inference and training entries that have a prediction."""
    wanted = table["kind"].isin(CONVERTED_KINDS)
    return float(np.isfinite(table.loc[wanted, "predicted"]).mean()) if wanted.any() else 0.0


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())
