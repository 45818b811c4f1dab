"""``moesim schema``: the JSON Schema of the YAML files."""

from __future__ import annotations

from typing import Annotated

import typer

from moesim.cli.completion import complete_schema
from moesim.cli.output import print_json


def schema(
    kind: Annotated[
        str,
        typer.Argument(
            help="Kind of file: scenario, training, serving, profile …; a wrong one lists all.",
            autocompletion=complete_schema,
        ),
    ] = "scenario",
) -> None:
    """Print the JSON Schema of a kind of YAML file, for editors that complete keys."""
    from moesim.spec.schema import json_schema

    print_json(json_schema(kind))
