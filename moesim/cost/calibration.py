"""From a profile's ``calibration:`` block to a `Machine`, and from a `Machine` to costs.

A profile states one of three things, and every result says which it was:

- fits of its own: ``{source, date, gemm: [...], …}``, written by ``moesim calibrate`` (origin ``measured``);
- ``{like: NAME}``: a sibling's relative efficiencies and fixed times on this device's datasheet (origin ``like NAME``);
- ``none``: the stated defaults of every family, with wide intervals (origin ``defaults``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache

import numpy as np

from moesim.cost.dtypes import dtype_distance, formats, peak
from moesim.cost.estimate import Cost
from moesim.cost.family import Family, Fit, Prediction, Rows, default_fit, family_on, predict
from moesim.cost.fitting import borrowed
from moesim.cost.launch import on_host, replayed, stack_of, with_host
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput
from moesim.hardware.device import Device, Hardware

_NOTES = ("source", "date", "like")  # keys of the block that are not families


def machine_for(
    hardware: Hardware, software: str | None, lookup: Callable[[str], Hardware], *, graphs: bool = True
) -> Machine:
    """The device with the fits of its profile, or of the sibling that the profile names.

    software: stack that will run, e.g. ``trtllm`` or ``vllm 0.24.0``. lookup: profile by name, for ``like``.
    """
    fits, origin = _fits_of(hardware, lookup, seen=())
    return Machine(hardware.device, software, fits, origin, graphs)


def _fits_of(
    hardware: Hardware, lookup: Callable[[str], Hardware], seen: tuple[str, ...]
) -> tuple[dict[str, tuple[Fit, ...]], str]:
    block = hardware.calibration
    if not block or block == "none":
        return {}, "defaults"
    launch, name = hardware.host.launch_s, hardware.name
    own = {
        family: tuple(with_host(fit_from_entry(family, e), e.get("host", {}), launch, name) for e in block[family])
        for family in block
        if family not in _NOTES
    }
    like = block.get("like")
    if like is None:
        return own, "measured"
    if like in seen or like == hardware.name:
        raise InvalidInput(f"calibration of {hardware.name}: like {like} leads back to itself; name a measured profile")
    lent = lend(lookup(str(like)), hardware, lookup, (*seen, hardware.name))
    return lent | own, "measured" if own else f"like {like}" if lent else "defaults"


def lend(
    sibling: Hardware, hardware: Hardware, lookup: Callable[[str], Hardware], seen: tuple[str, ...] = ()
) -> dict[str, tuple[Fit, ...]]:
    """The sibling's fits for another hardware: on its device and its host, with wider intervals."""
    fits, _ = _fits_of(sibling, lookup, seen)
    hosts, devices = (sibling.host.launch_s, hardware.host.launch_s), (sibling.device, hardware.device)
    return {
        family: tuple(borrowed(on_units(on_host(fit, *hosts), *devices)) for fit in some)
        for family, some in fits.items()
    }


def on_units(fit: Fit, theirs: Device, ours: Device) -> Fit:
    """The fit with its share of peak ``e_c`` for the matrix units of another device.

    What a product takes beyond its matrix units (issue, shared memory, promotion of FP8 sums, epilogues) is work of a
    core, which neither a throttled nor a doubled unit changes: with p the peak of a core, 1/(e·p) − 1/p stays. So a
    quarter of the peak per core (H20 against H100) turns 0.5 into 0.8, and FP4 units half as fast again (B300 against
    B200) 0.6 into 0.52. Shares of 1 and above stay: no time is beyond the units.
    """
    share = fit.parameters.get("e_c")
    if share is None or not 0 < share < 1:
        return fit
    try:
        per_core = [
            peak(device, *formats(fit.key.get("dtype", "bfloat16"))) / device.cores for device in (theirs, ours)
        ]
    except InvalidInput:  # of a format that one of them lacks
        return fit
    moved = share / (share + (1 - share) * per_core[1] / per_core[0])
    return replace(fit, parameters={**fit.parameters, "e_c": moved})


def fit_from_entry(family: str, entry: Mapping[str, object]) -> Fit:
    """A `Fit` from one entry of the profile; the inverse of `entry_from_fit`, without the host's part."""
    known = {"parameters", "choices", "points", "shapes", "error", "held_out", "interval", "range", "host"}
    return Fit(
        family=family,
        key={name: str(value) for name, value in entry.items() if name not in known},
        parameters={name: float(value) for name, value in entry["parameters"].items()},
        choices={n: tuple(c) if isinstance(c, list) else c for n, c in entry.get("choices", {}).items()},
        points=int(entry["points"]),
        shapes=int(entry["shapes"]),
        error=tuple(float(e) for e in entry["error"]),
        held_out=bool(entry.get("held_out", False)),
        interval=tuple(float(factor) for factor in entry["interval"]),
        range={column: (float(low), float(high)) for column, (low, high) in entry["range"].items()},
    )


def entry_from_fit(fit: Fit, launch: Mapping[str, float] | None = None) -> dict[str, object]:
    """One fit as plain values, four significant digits, in the order that people read it.

    launch: seconds of an operator by stack, in which the entry counts the host's part (`moesim.cost.launch`).
    """
    device = {name: value - fit.host_s.get(name, 0.0) for name, value in fit.parameters.items()}
    calls = {name: _digits(seconds / launch[stack_of(fit)]) for name, seconds in fit.host_s.items()}
    return {
        **fit.key,
        "parameters": {name: _digits(value) for name, value in device.items()},
        **({"host": calls} if calls else {}),
        "choices": {name: list(c) if isinstance(c, tuple) else c for name, c in fit.choices.items()},
        "points": fit.points,
        "shapes": fit.shapes,
        "error": [_digits(e, 3) for e in fit.error],
        "held_out": fit.held_out,
        "interval": [_digits(factor) for factor in fit.interval],
        "range": {column: [_digits(low, 12), _digits(high, 12)] for column, (low, high) in fit.range.items()},
    }


def _digits(value: float, digits: int = 4) -> float | int:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded


def candidates(fits: tuple[Fit, ...], wanted: Mapping[str, str | None]) -> tuple[Fit, ...]:
    """The fits nearest to a wanted key, most points first: several only where the kernel is left open.

    wanted: group columns; None or absent = any. In this order: the phase must match; the nearest dtypes; the same
    software, then its nearest version; the most alike kernel name. An unknown stack or kernel always has an answer.
    """
    phase = wanted.get("phase")
    pool = [fit for fit in fits if phase is None or fit.key.get("phase", phase) == phase]
    best = min((_distance(fit, wanted) for fit in pool), default=None)
    nearest = [fit for fit in pool if _distance(fit, wanted) == best]
    return tuple(sorted(nearest, key=lambda fit: -fit.points))


def _distance(fit: Fit, wanted: Mapping[str, str | None]) -> tuple[float, ...]:
    def dtype(column: str) -> float:
        want, have = wanted.get(column), fit.key.get(column)
        return dtype_distance(want, have) if want is not None and have is not None else 0.0

    software, have = (wanted.get("software") or "").strip(), fit.key.get("software", "")
    stack, version = 0.0, 0.0
    if software:
        stack = float(software.split()[0] != have.split()[0]) + _unlike(_unversioned(software), _unversioned(have))
        asked = re.search(r"\d", software)
        version = abs(_version(have) - _version(software)) if asked else -_version(have)
    kernel = wanted.get("kernel")
    return dtype("dtype"), dtype("kv_cache_dtype"), stack, version, _unlike(kernel, fit.key.get("kernel", kernel))


@lru_cache(maxsize=4096)
def _unlike(one: str | None, other: str | None) -> float:
    return 1 - SequenceMatcher(None, one, other).ratio() if one and other and one != other else 0.0


def _unversioned(software: str) -> str:
    return " ".join(re.sub(r"\d[\w.]*", "", software).split())


def _version(software: str) -> float:
    """A version as one number, e.g. ``trtllm 1.3.0rc20`` -> 1.003…: only its order and nearness matter."""
    numbers = [int(number) for number in re.findall(r"\d+", software)][:4]
    return sum(number / 1000.0**place for place, number in enumerate(numbers))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Predictions of rows on the kernels nearest to what was asked for.

    cost: arrays [rows]. fits: the kernels that answered, ``which`` [rows] the index of each row's. outside: [rows]
    doublings outside that kernel's calibrated range. floor_s: [rows] the larger of the two physical bounds.
    """

    cost: Cost
    fits: tuple[Fit, ...]
    which: np.ndarray
    outside: np.ndarray
    floor_s: np.ndarray


def answer(machine: Machine, family: Family, rows: Rows, wanted: Mapping[str, str | None]) -> Answer:
    """Predict rows (equal-length arrays) on the nearest measured kernels, else on the family's stated defaults.

    Where several kernels are equally near, each row runs on the one whose calibrated range is nearest, then on the one
    with most points.
    """
    family = family_on(family, machine.device)
    fits = candidates(machine.fits.get(family.name, ()), wanted) or (default_fit(family),)
    for fit in fits:
        _check_complete(family, fit)
    fits = tuple(replayed(fit, family) for fit in fits) if machine.graphs else fits
    predictions = [predict(family, machine.device, rows, fit) for fit in fits]
    which = np.argmin([prediction.outside for prediction in predictions], axis=0)
    costs = [_cost(fit, prediction) for fit, prediction in zip(fits, predictions, strict=True)]

    def pick(values: list[object], name: str) -> np.ndarray:
        return np.stack([getattr(value, name) for value in values])[which, np.arange(len(which))]

    cost = Cost(*(pick(costs, name) for name in ("seconds", "low", "high", "limit")))
    floor_s = np.maximum(pick(predictions, "memory_s"), pick(predictions, "compute_s"))
    return Answer(cost, fits, which, pick(predictions, "outside"), floor_s)


def estimate(
    machine: Machine, family: Family, rows: Mapping[str, object], wanted: Mapping[str, str | None] | None = None
) -> Cost:
    """Cost of every row, as `answer` gives it for the machine's software.

    rows: columns of the family's table as arrays or scalars that broadcast to one shape, which the result has. wanted:
    group columns to look for (dtype, phase, kernel …).
    """
    shape = np.broadcast_shapes(*(np.shape(values) for values in rows.values()))
    flat = {column: np.broadcast_to(np.asarray(values), shape).reshape(-1) for column, values in rows.items()}
    cost = answer(machine, family, flat, {"software": machine.software} | dict(wanted or {})).cost
    return Cost(*(getattr(cost, name).reshape(shape) for name in ("seconds", "low", "high", "limit")))


def _check_complete(family: Family, fit: Fit) -> None:
    missing = sorted({*family.parameters, *family.choices} - {*fit.parameters, *fit.choices})
    if missing:
        name = " ".join(fit.key.values())
        raise InvalidInput(
            f"calibration of {name} ({family.name}) lacks {', '.join(missing)}; run moesim calibrate again"
        )


def _cost(fit: Fit, prediction: Prediction) -> Cost:
    bound = np.maximum(prediction.memory_s, prediction.compute_s)
    slower = np.where(prediction.compute_s > prediction.memory_s, 2, 1)
    limit = np.where(fit.parameters.get("t0", 0.0) > bound, 0, slower)
    return Cost(prediction.seconds, prediction.low, prediction.high, limit)
