"""``moesim capture``: train a miniature, or hook a transformers model, and record what its routers choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def capture(
    model: Annotated[str | None, typer.Option("--model", help="Model whose router geometry a miniature gets.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace to write.")] = Path("trace.safetensors"),
) -> None:
    """Capture a router trace from a real forward pass (needs the extra ``lab``)."""
    raise NotImplementedError
