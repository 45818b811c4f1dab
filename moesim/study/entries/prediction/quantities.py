"""Read a published quantity off a simulated outcome, in the unit of the entry."""

from __future__ import annotations

from moesim.study.entries.reading.case import Case, NotStated
from moesim.study.entries.runs.outcome import Outcome


def read(case: Case, outcome: Outcome, factor: float, base_s: float | None = None) -> float:
    """The case's quantity. factor: on every time, from calibration. base_s: a token's seconds without the speed-up.

    Raises NotStated where the outcome has no such quantity.
    """
    quantity = case.quantity
    seconds = outcome.total_s * factor
    if quantity.what == "speedup":
        if base_s is None:
            raise NotStated("a speed-up over nothing")
        return (base_s / (outcome.total_s / _tokens(case, outcome)) - 1) / quantity.scale
    reader = _READERS[quantity.what]
    return reader(case, outcome, seconds) / quantity.scale


def grows_with_time(case: Case) -> bool:
    """Whether a longer time means a larger figure."""
    return case.quantity.what in ("step", "tpot", "ttft", "device_time", "train_time")


def token_seconds(case: Case, outcome: Outcome) -> float:
    """Seconds a token of a step."""
    return outcome.total_s / _tokens(case, outcome)


def _tokens(case: Case, outcome: Outcome) -> float:
    side = case.quantity.side
    found = {
        "input": outcome.input_tokens,
        "output": outcome.output_tokens,
        "total": outcome.input_tokens + outcome.output_tokens,
    }.get(side, outcome.output_tokens or outcome.input_tokens)
    if found <= 0:
        raise NotStated(f"the run has no {side or 'output'} tokens")
    return found * case.kept


def _rate(case: Case, outcome: Outcome, amount: float, seconds: float) -> float:
    """amount/seconds of a device, node, rank or the whole system."""
    rate = amount / seconds
    per = case.quantity.per
    if per == "system":
        return rate * (case.devices or outcome.devices) / outcome.devices
    return rate * {"device": 1, "node": outcome.node, "rank": outcome.devices / outcome.ranks}[per] / outcome.devices


def _tokens_rate(case: Case, outcome: Outcome, seconds: float) -> float:
    return _rate(case, outcome, _tokens(case, outcome), seconds)


def _samples(case: Case, outcome: Outcome, seconds: float) -> float:
    return _rate(case, outcome, outcome.sequences, seconds)


def _flops(case: Case, outcome: Outcome, seconds: float) -> float:
    if not outcome.model_flops:
        raise NotStated("model FLOPs are counted in training only")
    return _rate(case, outcome, outcome.model_flops, seconds)


def _mfu(case: Case, outcome: Outcome, seconds: float) -> float:
    if not (outcome.model_flops and outcome.peak_flops_per_s):
        raise NotStated("MFU is counted in training only")
    return outcome.model_flops / seconds / outcome.devices / outcome.peak_flops_per_s


def _user(case: Case, outcome: Outcome, seconds: float) -> float:
    return case.kept / _latency(case, outcome.tpot, outcome, seconds)


def _tpot(case: Case, outcome: Outcome, seconds: float) -> float:
    return _latency(case, outcome.tpot, outcome, seconds) / case.kept


def _ttft(case: Case, outcome: Outcome, seconds: float) -> float:
    return _latency(case, outcome.ttft, outcome, seconds)


def _latency(case: Case, found: dict[str, float], outcome: Outcome, seconds: float) -> float:
    value = found.get(case.quantity.statistic)
    if value is None:
        raise NotStated("the run has no such latency")
    return value * seconds / outcome.total_s


def _job_tokens(case: Case) -> float:
    if not case.quantity.tokens:
        raise NotStated("does not state for how many tokens")
    return case.quantity.tokens


def _device_time(case: Case, outcome: Outcome, seconds: float) -> float:
    return _job_tokens(case) / _tokens(case, outcome) * seconds * outcome.devices


def _train_time(case: Case, outcome: Outcome, seconds: float) -> float:
    share = outcome.devices / (case.devices or outcome.devices)
    return _job_tokens(case) / _tokens(case, outcome) * seconds * share


def _seconds(case: Case, outcome: Outcome, seconds: float) -> float:
    return seconds


_READERS = {
    "tokens": _tokens_rate,
    "samples": _samples,
    "flops": _flops,
    "mfu": _mfu,
    "user": _user,
    "tpot": _tpot,
    "ttft": _ttft,
    "step": _seconds,
    "device_time": _device_time,
    "train_time": _train_time,
}
