"""Turn timings of this machine into a hardware profile with its calibration, like those that ship."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from moesim.cost.collective_kernels import COLLECTIVE
from moesim.cost.dtypes import formats
from moesim.cost.experts_table import EXPERTS
from moesim.cost.family import Family, Fit
from moesim.cost.fitting import cross_validate, fit, with_held_out
from moesim.cost.gemm import GEMM
from moesim.hardware.device import Device, Hardware
from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.kernels.calibrate import calibration_block, write_calibration

if TYPE_CHECKING:
    from moesim.lab.microbench import Tables
    from moesim.lab.place import Facts, Place

# Topologies that processes of one host meet in: CPU processes in its memory, as devices do at a PCIe root.
_TOPOLOGY = {"cpu": "pcie", "cuda": "nvlink"}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def write_profile(path: str | Path, place: Place, facts: Facts, tables: Tables, *, date: str, words: str) -> Hardware:
    """Write the profile of a timed machine, fit its calibration, and read it back.

    words: under which conditions it was timed, kept with the calibration. The file appears whole or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.measured.yaml")
    try:
        new.write_text(_profile(place, facts, tables, date), encoding="utf-8")
        fits = fit_tables(load_profile(new).device, tables)
        block = calibration_block({}, fits, source=f"measured on this machine; {words}", date=date)
        write_calibration(new, block, load_profile)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return load_profile(path)


def fit_tables(device: Device, tables: Tables) -> dict[str, tuple[Fit, ...]]:
    """Fits by family, with errors and intervals of shapes held out where a family's shapes can stand for each other."""
    fits = {
        GEMM.name: (_fit(GEMM, device, tables.gemm, held_out=True),),
        EXPERTS.name: (_fit(EXPERTS, device, tables.experts, held_out=True),),
    }
    if len(tables.collective):
        fits[COLLECTIVE.name] = (_fit(COLLECTIVE, device, tables.collective, held_out=False),)
    return fits


def _fit(family: Family, device: Device, table: pd.DataFrame, *, held_out: bool) -> Fit:
    rows = _rows(table)
    key = {column: str(rows[column][0]) for column in family.group if column != "hardware"}
    fitted = fit(family, device, rows, key)
    if not held_out:
        return fitted
    return with_held_out(fitted, cross_validate(family, device, rows, key), rows[family.measured])


def best_rates(tables: Tables, kind: str) -> dict[str, float]:
    """The best that was seen: ``flops_per_s``, ``bytes_per_s`` and, between processes, ``link_bytes_per_s``."""
    compute = formats(str(tables.gemm["dtype"].iloc[0]))[0].compute
    unit = Device("unit", kind, {compute: 1.0}, 1.0, 1.0, 1, None, 1.0)  # bounds are then bytes and FLOPs
    streams = tables.memory["moved_bytes"] / tables.memory["latency_s"]
    rates = {"bytes_per_s": float(streams.max()), "flops_per_s": 0.0}
    for family, table in ((GEMM, tables.gemm), (EXPERTS, tables.experts)):
        moved, flops = family.bounds(unit, _rows(table))
        rates["bytes_per_s"] = max(rates["bytes_per_s"], float(np.max(moved / table["latency_s"])))
        rates["flops_per_s"] = max(rates["flops_per_s"], float(np.max(flops / table["latency_s"])))
    if len(tables.collective):
        moved, _ = COLLECTIVE.bounds(unit, _rows(tables.collective))
        rates["link_bytes_per_s"] = float(np.max(moved / tables.collective["latency_s"]))
    return rates


def _rows(table: pd.DataFrame) -> Mapping[str, np.ndarray]:
    return {str(column): table[column].to_numpy() for column in table}


def _profile(place: Place, facts: Facts, tables: Tables, date: str) -> str:
    kind, here = ("gpu" if place.device == "cuda" else "cpu"), f"# measured here, {date}"
    compute = formats(str(tables.gemm["dtype"].iloc[0]))[0].compute
    rates = best_rates(tables, kind)
    lines = [
        "# Measured by moesim calibrate --measure. One device is one process.",
        f"title: {json.dumps(facts.title)}",
        "device:",
        f"  kind: {kind}",
        "  peak:",
        f"    {compute}: {_quantity(rates['flops_per_s'], 'FLOP/s')}    {here}: the best matrix product",
        "  hbm:",
        f"    capacity: {_quantity(facts.memory_bytes, 'B')}    # the system, {date}: memory by processes",
        f"    bandwidth: {_quantity(rates['bytes_per_s'], 'B/s')}    {here}: the best of reading, copying, products",
        f"  cores: {facts.cores}    # the system, {date}",
    ]
    if place.cache_bytes:
        lines.append(f"  cache: {_quantity(place.cache_bytes, 'B')}    # the system, {date}")
    if "link_bytes_per_s" not in rates:
        return "\n".join([*lines, "topology:", "  kind: single", "calibration: none", ""])
    shape = [f"  domain: {place.processes}"]
    if place.device == "cuda":
        shape += [f"  server: {place.processes}", "  planes: 1"]
    latency = float(tables.collective["latency_s"].min())
    link = f"{{bandwidth: {_quantity(rates['link_bytes_per_s'], 'B/s')}, latency: {latency * 1e6:.4g} us}}"
    lines += [
        "topology:",
        f"  kind: {_TOPOLOGY[place.device]}",
        *shape,
        f"  {here}: the best rate of a collective; the fastest collective ({place.backend})",
        f"  link: {link}",
        "calibration: none",
    ]
    return "\n".join([*lines, ""])


def _quantity(value: float, unit: str) -> str:
    scale, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / scale:.4g} {prefix}{unit}"
