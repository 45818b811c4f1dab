"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from moesim.cli.completion import complete_field

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE.html", help="One page that opens offline, with Markdown beside it (docs/reports.md)."
    ),
]


def set_option(help_text: str) -> OptionInfo:
    """``--set FIELD=VALUE``, which completes the scenario's fields."""
    return typer.Option("--set", autocompletion=complete_field, metavar="FIELD=VALUE", help=help_text)
