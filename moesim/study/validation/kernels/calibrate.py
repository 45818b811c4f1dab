"""Fit a profile's cost models to measured tables and keep the fits in the profile.

Input is any table that `moesim validate` reads, with a measured ``latency_s`` in seconds. Every kernel (combination of
software, kernel, dtype …) is fitted by itself; its error and interval come from shapes that its fit never saw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from moesim.cost.calibration import answer, entry_from_fit, machine_for
from moesim.cost.family import Family, Fit, Rows, default_fit, family_on, predict
from moesim.cost.fitting import absolute_errors, check_fittable, cross_validate, fit, groups_of, with_held_out
from moesim.cost.launch import host_part, operator_seconds
from moesim.cost.table_kinds import FAMILIES
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Device, Hardware
from moesim.study.validation.tables import families_of, table_kind, unusable

# Measured times this many times above or below the stated defaults, in the median, are not in seconds: host-bound
# kernels reach 65x, and the usual mistake, milliseconds, 1,000x.
_WRONG_UNITS = 250.0


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What `calibrate` found.

    fits: by family. summary: one row a kernel: points, shapes, median and P90 error before (the profile as it was) and
    after (shapes held out where there are several), interval. rows: the table's rows with ``before_s``, ``after_s``
    (in sample), ``held_out_s`` and ``family``, for figures. skipped: kernels that could not be fitted, and why.
    """

    fits: Mapping[str, tuple[Fit, ...]]
    summary: pd.DataFrame
    rows: pd.DataFrame
    skipped: tuple[Problem, ...] = ()


def calibrate(
    tables: Mapping[str, pd.DataFrame],
    hardware: Hardware,
    lookup: Callable[[str], Hardware],
    *,
    software: str | None = None,
    folds: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Fit every kernel of the tables that was measured on this hardware.

    tables: by file name, which errors quote. Rows of other hardware are left out; a table without a ``hardware`` column
    is all of this one. software: only stacks whose name starts so. progress: called with each kernel's name. A kernel
    that cannot be fitted is skipped: its rows will use the nearest one. Raises InvalidInput when no kernel can.
    """
    machine = machine_for(hardware, None, lookup, graphs=False)
    fits: dict[str, list[Fit]] = {}
    summary, rows, skipped = [], [], []
    for name, family, key, part in _kernels(tables, hardware, software):
        progress(" ".join(key.values()))
        family = family_on(family, hardware.device)
        data = {column: part[column].to_numpy() for column in (*family.columns, family.measured)}
        try:
            check_fittable(family, data, key)
            _check_units(family, hardware.device, data)
            before = answer(machine, family, data, key).cost.seconds
            fitted = fit(family, hardware.device, data, key)
            held_out = cross_validate(family, hardware.device, data, key, folds=folds)
        except InvalidInput as error:
            skipped.append(Problem(str(error), file=name))
            continue
        fitted = with_held_out(fitted, held_out, data[family.measured])
        fitted = replace(fitted, host_s=host_part(family, fitted))
        after = predict(family, hardware.device, data, fitted).seconds
        fits.setdefault(family.name, []).append(fitted)
        rows.append(part.assign(family=family.name, before_s=before, after_s=after, held_out_s=held_out))
        summary.append(_summary(fitted, before, data[family.measured]))
    if not fits:
        raise InvalidInput(skipped)
    found = {family: tuple(some) for family, some in fits.items()}
    return Calibration(found, pd.DataFrame(summary), pd.concat(rows), tuple(skipped))


def _kernels(
    tables: Mapping[str, pd.DataFrame], hardware: Hardware, software: str | None
) -> Iterator[tuple[str, Family, dict[str, str], pd.DataFrame]]:
    """(file, family, key without hardware, rows) of every kernel."""
    for name, table in tables.items():
        kind, table = _prepared(table, name, hardware, software)
        for family, members in families_of(table, kind):
            for key, positions in groups_of(family, table.iloc[members]):
                key = {column: value for column, value in key.items() if column != "hardware"}
                yield name, family, key, table.iloc[members[positions]]


def _prepared(table: pd.DataFrame, name: str, hardware: Hardware, software: str | None) -> tuple[str, pd.DataFrame]:
    """The rows of this hardware and software, checked."""
    if "hardware" not in table:
        table = table.assign(hardware=hardware.name)
    kind = table_kind(table, name)
    if "latency_s" not in table:
        raise InvalidInput(Problem("calibrating needs the measured time; add a column latency_s in seconds", file=name))
    table = table[table["hardware"] == hardware.name]
    if software is not None:
        table = table[table["software"].str.startswith(software)]
    if table.empty:
        what = hardware.name if software is None else f"{hardware.name} with {software}"
        raise InvalidInput(
            Problem(f"no row was measured on {what}; check the columns hardware and software", file=name)
        )
    reason = unusable(table, kind)
    bad = np.flatnonzero(reason != "")
    if len(bad):
        raise InvalidInput([Problem(f"row {table.index[row]}: {reason[row]}", file=name) for row in bad[:10]])
    return kind, table


def _check_units(family: Family, device: Device, rows: Rows) -> None:
    expected = predict(family, device, rows, default_fit(family)).seconds
    ratio = float(np.median(np.asarray(rows[family.measured], dtype=float) / expected))
    if not 1 / _WRONG_UNITS < ratio < _WRONG_UNITS:
        raise InvalidInput(
            f"{family.measured} does not look like seconds: half of the rows are {ratio:.3g} times what the datasheet "
            "suggests; convert milliseconds or microseconds to seconds"
        )


def _summary(fitted: Fit, before: np.ndarray, seconds: np.ndarray) -> dict[str, object]:
    median, p90 = absolute_errors(before, seconds)
    return {
        "family": fitted.family,
        **fitted.key,
        "points": fitted.points,
        "shapes": fitted.shapes,
        "before_median": median,
        "before_p90": p90,
        "after_median": fitted.error[0],
        "after_p90": fitted.error[1],
        "held_out": fitted.held_out,
        "low": fitted.interval[0],
        "high": fitted.interval[1],
    }


def calibration_block(
    old: Mapping[str, object],
    fits: Mapping[str, Sequence[Fit]],
    *,
    source: str,
    date: str,
    launch: Mapping[str, float] | None = None,
) -> dict[str, object]:
    """The ``calibration:`` block with new fits in it; fits of other kernels, and a ``like``, stay.

    launch: seconds of an eager operator by stack, in which the host's part of fits is counted; as `launch_of` says.
    """
    block: dict[str, object] = {"source": source, "date": date}
    if "like" in old:
        block["like"] = old["like"]
    for family in FAMILIES.values():
        new = [entry_from_fit(fit, launch) for fit in fits.get(family.name, ())]
        replaced = [_identity(entry) for entry in new]
        kept = [entry for entry in old.get(family.name, ()) if _identity(entry) not in replaced]
        if kept or new:
            block[family.name] = sorted(kept + new, key=_identity)
    return block


def launch_of(hardware: Hardware, fits: Mapping[str, Sequence[Fit]]) -> dict[str, float]:
    """Seconds of an eager operator by stack: what the profile states, and what new fits show of other stacks."""
    return operator_seconds((fit for some in fits.values() for fit in some), hardware.host.launch_s)


def _identity(entry: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(entry.get(c, "")) for c in ("software", "kernel", "phase", "dtype", "kv_cache_dtype"))


def write_calibration(
    path: str | Path,
    block: Mapping[str, object],
    check: Callable[[Path], object],
    launch: Mapping[str, float] | None = None,
) -> None:
    """Replace the ``calibration:`` block of a profile; everything else, comments included, stays as it was.

    launch: becomes ``host.launch`` where the profile states none. check: reads the new file before it takes the old
    one's place; if it raises, the profile is untouched.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    new = path.with_name(f".{path.stem}.new.yaml")
    try:
        new.write_text(_with_launch(_spliced(text, block), launch or {}), encoding="utf-8")
        check(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _spliced(text: str, block: Mapping[str, object]) -> str:
    lines = ["calibration:\n"]
    for name, value in block.items():
        if isinstance(value, list):
            lines += [f"  {name}:\n", *(f"    - {_flow(entry)}\n" for entry in value)]
        else:
            lines.append(f"  {name}: {_flow(value)}\n")
    # the key and the indented or empty lines below it, up to the next key or comment at the margin
    found = re.search(r"^calibration:.*\n?(?:(?:[ \t].*|[ \t]*)\n)*(?:[ \t].*)?", text, flags=re.MULTILINE)
    if found is None:
        return text.rstrip("\n") + "\n" + "".join(lines)
    return text[: found.start()] + "".join(lines) + text[found.end() :]


def _with_launch(text: str, launch: Mapping[str, float]) -> str:
    """The profile with ``host.launch``; a host of one line is left as it is where it states launches already."""
    host = (yaml.load(text, yaml.CSafeLoader) or {}).get("host") or {}
    if not set(launch) - set(host.get("launch", {})):
        return text
    figures = ", ".join(f"{stack}: {seconds * 1e6:.4g} us" for stack, seconds in launch.items())
    line = f"  launch: {{{figures}}}\n"
    block = re.search(r"^host:[ \t]*(?:#.*)?\n", text, flags=re.MULTILINE)
    if block is None:  # no host, or one in flow style
        others = "".join(f"  {name}: {_flow(value)}\n" for name, value in host.items() if name != "launch")
        text = re.sub(r"^host:.*\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^calibration:", f"host:\n{others}{line}calibration:", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^  launch:.*\n", "", text, flags=re.MULTILINE)
    return text[: block.end()] + line + text[block.end() :]


def _flow(value: object) -> str:
    """One line of YAML in flow style."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9).removesuffix("...\n").strip()
