"""``moesim calibrate --measure`` and ``moesim validate --local``: what concerns the machine it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from moesim.cli.output import Progress, note, print_json, print_table, records, say
from moesim.errors import InvalidInput

LOCAL_FOLDER = Path("out/local")


def measure_machine(out: Path, *, device: str | None = None, json: bool = False) -> None:
    """Measure this machine, write its profile, and say what was found."""
    _need_torch()
    from moesim.lab.place import this_machine
    from moesim.study.validation.closed_loop.loop import measure_profile

    with _resumable():
        hardware = measure_profile(out, place=this_machine(device), progress=Progress())
    note(f"wrote {out}")
    if json:
        print_json(
            {"schema_version": 1, "hardware": hardware.name, "title": hardware.title, "kernels": _kernels(hardware)}
        )
        return
    say(f"{hardware.name}: {hardware.title}")
    say("best rates    " + ", ".join(_rates(hardware)))
    say()
    rows = [
        (f["family"], f["kernel"], f["points"], *(f"{e:.1%}" for e in f["error"]), f["of"]) for f in _kernels(hardware)
    ]
    print_table(rows, ("family", "kernel", "points", "median", "P90", "error of"), right=(2, 3, 4))


def validate_local(
    *, profile: Path | None = None, folder: Path = LOCAL_FOLDER, device: str | None = None, json: bool = False
) -> None:
    """Measure this machine unless a profile of it is given, predict expert-parallel passes, run them, compare."""
    _need_torch()
    from moesim.lab.place import this_machine
    from moesim.study.validation.closed_loop import loop as study

    with _resumable():
        found = study.validate_local(folder, profile=profile, place=this_machine(device), progress=Progress())
    note(f"wrote {folder}/passes.csv" + ("" if profile else f" and {folder}/this_machine.yaml"))
    if json:
        summary = {
            "median_ape": found.median_error, "p90_ape": found.p90_error, "coverage": found.coverage,
            "in_order": found.in_order, "ordered": found.ordered, "load_average": list(found.load),
        }  # fmt: skip
        print_json({"schema_version": 1, "hardware": found.hardware.title, **summary, "passes": records(found.table)})
        return
    _print(found)


def _print(found) -> None:
    from moesim.units import format_seconds as s

    say(f"{found.hardware.title}; best rates {', '.join(_rates(found.hardware))}")
    say(f"load average {found.load[0]:.1f} before, {found.load[1]:.1f} after; every time is the shortest of many")
    say()
    header = ("model", "routing", "processes", "tokens each", "predicted", "80 % interval", "measured", "error")
    rows = [
        (
            *(r[name] for name in ("model", "routing", "processes", "tokens")),
            s(r["predicted_s"]), f"{s(r['low_s'])} – {s(r['high_s'])}", s(r["measured_s"]), f"{r['error']:+.0%}",
        )
        for r in found.table.to_dict("records")
    ]  # fmt: skip
    print_table(rows, header, right=range(2, 8))
    say()
    say(f"median error {found.median_error:.1%}, P90 {found.p90_error:.1%}; {found.coverage:.0%} inside their interval")
    say(f"order of the routings: {found.in_order} of {found.ordered} pairs that differ by more than 10 % as predicted")


def _rates(hardware) -> list[str]:
    device = hardware.device
    rates = [f"{flops / 1e9:,.0f} GFLOP/s {name}" for name, flops in device.peak.items()]
    rates.append(f"{device.hbm_bytes_per_s / 1e9:,.1f} GB/s of memory")
    if device.scale_up_bytes_per_s:
        rates.append(f"{device.scale_up_bytes_per_s / 1e9:,.1f} GB/s between processes")
    return rates


def _kernels(hardware) -> list[dict]:
    found = []
    for family, entries in hardware.calibration.items():
        for entry in entries if isinstance(entries, list) else ():
            of = "held-out shapes" if entry["held_out"] else "the fit"
            found.append({"family": family, "of": of} | {name: entry[name] for name in ("kernel", "points", "error")})
    return found


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise InvalidInput("measuring needs PyTorch; install the extra: pip install torch==2.13.0 'moesim[lab]'")
