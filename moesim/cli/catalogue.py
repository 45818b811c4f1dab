"""``moesim profiles`` and ``moesim models``: what ships with moesim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def profiles(
    name: Annotated[str | None, typer.Argument(help="Show one profile; without, list all.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the topology graph into this PNG.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", help="Size of the drawn cluster.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List hardware profiles, show one, or draw its topology."""
    raise NotImplementedError


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model; without, list all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List models: parameters, KV bytes and FLOPs per token beside the published figures."""
    raise NotImplementedError
