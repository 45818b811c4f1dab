"""``moesim profiles`` and ``moesim models``: what ships with moesim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_model, complete_profile
from moesim.cli.options import JsonOption
from moesim.cli.output import note, print_json, print_table, records, say
from moesim.errors import InvalidInput


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to show: ids, YAML files, config.json.", autocompletion=complete_model),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List models: parameters, KV bytes and FLOPs per token beside the published figures."""
    from moesim.study.inspection.models import models_table

    table = models_table(names or None)
    if json:
        print_json({"models": records(table.reset_index())})
        return
    header = (
        "model",
        "layers",
        "experts",
        "total",
        "published",
        "off",
        "active",
        "published",
        "off",
        "KV/token",
        "FLOP/token",
    )
    print_table((_model_row(row) for row in table.reset_index().itertuples()), header, right=range(1, len(header)))
    say()
    say("Active parameters are counted as the vendor counts; KV bytes in BF16; FLOPs forward, mean over 4,096 tokens.")
    for row in table.reset_index().itertuples():
        if row.unverified:
            note(f"{row.model}: read in no source: {row.unverified}")


def _model_row(row) -> tuple[str, ...]:
    experts = f"{row.experts} top-{row.top_k}" if row.experts else "dense"
    return (
        row.model,
        str(row.layers),
        experts,
        _billions(row.total_parameters),
        _billions(row.published_total),
        _percent(row.total_difference),
        _billions(row.active_parameters),
        _billions(row.published_active),
        _percent(row.active_difference),
        "" if row.kv_bytes_per_token != row.kv_bytes_per_token else f"{row.kv_bytes_per_token / 1e3:.1f} kB",
        ""
        if row.forward_flops_per_token != row.forward_flops_per_token
        else f"{row.forward_flops_per_token / 1e9:.1f} G",
    )


def _billions(value: float | None) -> str:
    return "" if value is None or value != value else f"{value / 1e9:.2f} B"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:+.2%}"


def profiles(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one profile, by name or file; without, list all.", autocompletion=complete_profile),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the topology graph into this PNG.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", help="Size of the drawn cluster.")] = None,
    json: JsonOption = False,
) -> None:
    """List hardware profiles, show one, or draw its topology."""
    from moesim.study.inspection.profiles import profile_sheet, profiles_table

    if name is None and (plot or devices):
        raise InvalidInput("name the profile to draw, e.g. moesim profiles gb200_nvl72 --plot topology.png")
    table = profiles_table() if name is None else profile_sheet(name)
    if plot is not None:
        _draw(name, devices, plot)
    if json:
        print_json({"profiles" if name is None else "figures": records(table if name else table.reset_index())})
    elif name is None:
        _print_profiles(table)
    else:
        rows = (
            (row.field, row.value, ("unverified: " if row.unverified else "") + row.source)
            for row in table.itertuples()
        )
        print_table(rows, header=("field", "value", "source"))


def _print_profiles(table) -> None:
    from moesim.units import format_bytes

    def rate(value: float) -> str:
        return "" if value != value else f"{format_bytes(value)}/s"

    def peak(value: float) -> str:
        return "" if value != value else f"{value / 1e12:,.0f}"

    header = ("profile", "BF16", "FP8", "FP4", "HBM", "", "cores", "scale-up", "of", "NIC", "W", "USD/h", "calibration")
    rows = (
        (
            row.profile,
            *(peak(getattr(row, f"{name}_flops_per_s")) for name in ("bf16", "fp8", "fp4")),
            format_bytes(row.hbm_bytes),
            rate(row.hbm_bytes_per_s),
            row.cores,
            rate(row.scale_up_bytes_per_s),
            row.scale_up_devices,
            rate(row.nic_bytes_per_s),
            "" if row.watts != row.watts else f"{row.watts:.0f}",
            "" if row.usd_per_hour != row.usd_per_hour else f"{row.usd_per_hour:.2f}",
            row.calibration,
        )
        for row in table.reset_index().itertuples()
    )
    print_table(rows, header, right=range(1, 12))
    say()
    say("Peaks in dense TFLOP/s; link rates one way. `moesim profiles NAME` shows every figure with its source.")


def _draw(name: str, devices: int | None, path: Path) -> None:
    from moesim.hardware.fabrics import build_cluster
    from moesim.report.figures.topology import draw_topology
    from moesim.spec.hardware.profile import load_profile
    from moesim.study.inspection.profiles import drawn_devices

    hardware = load_profile(name)
    cluster = build_cluster(hardware, devices or drawn_devices(hardware))
    draw_topology(cluster, path, title=f"{cluster.ranks} × {hardware.title}")
    note(f"wrote {path}")
