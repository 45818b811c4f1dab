"""``moesim profiles`` and ``moesim models``: what ships with moesim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import note, print_json, print_table, say


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Models to show: ids, YAML files, config.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List models: parameters, KV bytes and FLOPs per token beside the published figures."""
    from moesim.study.catalogue_models import models_table

    table = models_table(names or None)
    if json:
        import json as encoder

        print_json({"models": encoder.loads(table.reset_index().to_json(orient="records"))})
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
    name: Annotated[str | None, typer.Argument(help="Show one profile; without, list all.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the topology graph into this PNG.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", help="Size of the drawn cluster.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List hardware profiles, show one, or draw its topology."""
    raise NotImplementedError
