"""The closed loop: measure this machine, predict expert-parallel forward passes on it, and run them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from moesim.cost.calibration import estimate, machine_for
from moesim.cost.communication import library, with_protocols
from moesim.cost.dtypes import table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.experts_loads import load_columns
from moesim.cost.experts_table import EXPERTS
from moesim.cost.machine import Machine
from moesim.engine.simulate import simulate
from moesim.errors import InvalidInput, Problem
from moesim.files import write_table
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.network import collectives
from moesim.network.fidelity import FIDELITIES
from moesim.network.routes import Network, build_network
from moesim.network.transfer import Transfer
from moesim.placement.policies import contiguous
from moesim.placement.traffic import LayerTraffic, layer_traffic
from moesim.routing.trace import RouterTrace, open_trace
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading import library as shelf
from moesim.study.validation.closed_loop.profile import write_profile
from moesim.workload.emitter import Emitter

if TYPE_CHECKING:
    from moesim.lab.closed_loop import Pass
    from moesim.lab.microbench import Sweep
    from moesim.lab.place import Place

ROUNDS = 8
_APART = 0.1  # routings whose times differ by less are a draw: timings on a shared machine repeat to some 5 %
_COUNT_BYTES = 8  # of one expert's count, sent before its tokens
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Predicted against measured.

    table: one row a pass: model, routing, processes, tokens (of each), experts, top_k, hidden, ffn, predicted_s, low_s,
    high_s (80 % interval), measured_s, error. in_order, ordered: pairs of routings in the predicted order, of all that
    differ. load: other runnable jobs of the machine, mean of the last minute before and after.
    """

    hardware: Hardware
    table: pd.DataFrame
    in_order: int
    ordered: int
    load: tuple[float, float]

    @property
    def median_error(self) -> float:
        """Median of |error|."""
        return float(self.table["error"].abs().median())

    @property
    def p90_error(self) -> float:
        """90 % of the passes have a smaller |error|."""
        return float(self.table["error"].abs().quantile(0.9))

    @property
    def coverage(self) -> float:
        """Share of measured times inside their interval."""
        return float(self.table["measured_s"].between(self.table["low_s"], self.table["high_s"]).mean())


def measure_profile(
    out: str | Path,
    *,
    place: Place | None = None,
    sweep: Sweep | None = None,
    rounds: int = ROUNDS,
    progress: Progress,
) -> Hardware:
    """Measure this machine and write its profile. A run that was stopped goes on where it was.

    place: processes and device, by default all GPUs that torch sees, else two CPU processes. sweep: sizes other than
    the device's. Timings so far stand in ``OUT.partial`` until the profile is written. Raises InvalidInput where out
    cannot be a profile, or OUT.partial is of another measurement.
    """
    from moesim.lab.microbench import sweep_tasks
    from moesim.lab.place import this_machine

    out, place = Path(out), place or this_machine()
    if out.suffix != ".yaml":
        raise InvalidInput(Problem("a profile is a YAML file; write a name that ends in .yaml", file=str(out)))
    return _measured(out, place, sweep_tasks(place, sweep), rounds, progress)[1]


def validate_local(
    folder: str | Path,
    *,
    profile: str | Path | None = None,
    place: Place | None = None,
    sweep: Sweep | None = None,
    copies: tuple[int, ...] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Progress,
) -> Comparison:
    """Predict and run expert-parallel passes on one process and on all of this machine.

    folder: where the machine's profile, ``passes.csv`` and timings so far go. profile: one that was measured here
    before; by default kernels are timed in turn with the passes. place, sweep, copies: other than those of the machine
    (`moesim.lab.closed_loop.passes`). seed: of the skewed routing and of the tokens drawn. Raises InvalidInput for a
    profile of another kind of device.
    """
    from moesim.lab.closed_loop import passes
    from moesim.lab.microbench import sweep_tasks
    from moesim.lab.place import this_machine

    folder, before, place = Path(folder), os.getloadavg()[0], place or this_machine()
    known = None if profile is None else load_profile(profile)
    if known is not None and (known.device.kind == "cpu") != (place.device == "cpu"):
        raise InvalidInput(
            Problem(f"is of a {known.device.kind}, but passes run on {place.device} here", file=str(profile))
        )
    runs = passes(place, captured_traces(), np.random.default_rng(seed), copies)
    kernels = sweep_tasks(place, sweep) if known is None else []
    seconds, hardware = _measured(folder / "this_machine.yaml", place, [*kernels, *runs], rounds, progress, known)
    table = compare(hardware, runs, [seconds[run.key] for run in runs])
    write_table(folder / "passes.csv", table)
    return Comparison(hardware, table, *right_order(table), (before, os.getloadavg()[0]))


def captured_traces() -> dict[str, RouterTrace]:
    """The shipped captures by name."""
    return {name: open_trace(shelf.find("trace", name)) for name in shelf.names("trace")}


def compare(hardware: Hardware, runs: Sequence[Pass], measured_s: Sequence[float]) -> pd.DataFrame:
    """A row for every pass, see `Comparison`."""
    machine = machine_for(hardware, "torch", load_profile, graphs=False)
    networks = {n: build_network(build_cluster(hardware, n)) for n in {run.processes for run in runs}}
    rows = []
    for run, measured in zip(runs, measured_s, strict=True):
        predicted, low, high = predict_pass(machine, networks[run.processes], run)
        rows.append({
            "model": run.model, "routing": run.routing, "processes": run.processes, "tokens": run.tokens,
            "experts": run.experts, "top_k": run.ids.shape[2], "hidden": run.hidden, "ffn": run.ffn,
            "predicted_s": predicted, "low_s": low, "high_s": high, "measured_s": measured,
            "error": predicted / measured - 1,
        })  # fmt: skip
    return pd.DataFrame(rows)


def predict_pass(machine: Machine, network: Network, run: Pass) -> tuple[float, float, float]:
    """(seconds, low, high) of a pass: its program, with the machine's costs, on the engine."""
    placement = contiguous(
        np.ones((len(run.ids), run.experts)), network.ranks, slots_per_rank=-(-run.experts // network.ranks)
    )
    source = np.repeat(np.arange(network.ranks), run.tokens)
    layers = [
        layer_traffic(placement, layer, ids, source, level="expert", node=np.zeros(network.ranks, dtype=int))
        for layer, ids in enumerate(run.ids)
    ]
    precision = PRECISIONS["fp32" if machine.device.kind == "cpu" else "bf16"]
    return tuple(_simulated(machine, network, run, layers, precision, bound) for bound in ("seconds", "low", "high"))


def _simulated(
    machine: Machine, network: Network, run: Pass, layers: Sequence[LayerTraffic], precision: Precision, bound: str
) -> float:
    """Seconds of the pass with every cost at its estimate or at one end of its interval."""
    emit = Emitter(np.arange(network.ranks))
    counts = np.full((network.ranks, network.ranks), run.experts / network.ranks * _COUNT_BYTES)
    last: tuple[int, ...] = ()
    for index, traffic in enumerate(layers):
        token_bytes = run.hidden * precision.bytes
        local = _experts(machine, run, traffic, precision)
        if network.ranks > 1:
            for name, sent in (("counts", counts), ("dispatch", traffic.copies * token_bytes)):
                last = (emit.communicate(name, index, _exchange(machine, network, sent, precision, bound), last),)
        last = (emit.compute("experts", index, getattr(local, bound), last),)
        if network.ranks > 1:
            back = _exchange(machine, network, traffic.copies.T * token_bytes, precision, bound)
            last = (emit.communicate("combine", index, back, last),)
    return simulate([emit.program()], FIDELITIES["coflow"].rates, network.capacity).makespan_s


def _experts(machine: Machine, run: Pass, traffic: LayerTraffic, precision: Precision) -> Cost:
    """Cost [rank] of all that a rank does by itself in a layer."""
    dtype, slots = table_dtype(precision, precision), float(traffic.tokens.shape[1])
    rows = load_columns(traffic.tokens) | {
        "tokens": float(run.tokens), "top_k": float(run.ids.shape[2]), "local_experts": slots, "experts": slots,
        "hidden_size": float(run.hidden), "width": float(run.ffn), "gated": 1.0, "dtype": dtype,
    }  # fmt: skip
    return estimate(machine, EXPERTS, rows, {"dtype": dtype})


def _exchange(machine: Machine, network: Network, sent: np.ndarray, precision: Precision, bound: str) -> Transfer:
    """An all-to-all of sent [source, destination] bytes."""
    ranks = np.arange(network.ranks)[None]
    plain = collectives.all_to_all(network, ranks, sent)
    largest = float(max(sent.sum(axis=0).max(), sent.sum(axis=1).max()))
    priced = with_protocols(machine, network, plain, "all_to_all", ranks, largest, precision)
    low, high = library(machine, "all_to_all").interval
    factor = {"seconds": 1.0, "low": low, "high": high}[bound]
    return replace(priced, wire_s=priced.wire_s * factor, latency_s=priced.latency_s * factor)


def right_order(table: pd.DataFrame) -> tuple[int, int]:
    """(pairs in the predicted order, pairs that differ) among the routings of each model, size and process count."""
    right = total = 0
    for _, group in table.groupby(["model", "processes", "tokens"]):
        for (_, one), (_, other) in combinations(group.iterrows(), 2):
            measured = np.log(one["measured_s"] / other["measured_s"])
            if abs(measured) > _APART:
                total += 1
                right += bool(measured * np.log(one["predicted_s"] / other["predicted_s"]) > 0)
    return right, total


def _measured(
    path: Path, place: Place, tasks: Sequence, rounds: int, progress: Progress, known: Hardware | None = None
) -> tuple[dict[str, float], Hardware]:
    """Time the tasks; the seconds of each by key, and the machine's profile, written to path unless it is known."""
    from moesim.lab.microbench import tables
    from moesim.lab.place import facts
    from moesim.lab.stopwatch import time_tasks

    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.open("a").close()  # before minutes of timing, not after
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be written: {error.strerror}", file=str(partial))) from None
    seconds = time_tasks(place, tasks, rounds=rounds, partial=partial, progress=progress)
    if known is None:
        words = f"shortest of {rounds} rounds, load average {os.getloadavg()[0]:.1f}"
        found = tables(place, tasks, seconds)
        known = write_profile(path, place, facts(place), found, date=date.today().isoformat(), words=words)
    partial.unlink()
    return seconds, known
