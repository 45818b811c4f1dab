"""``moesim capture``: train a miniature, or hook a transformers model, and record what its routers choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.options import JsonOption
from moesim.cli.output import Progress, note_written, print_json, print_table, say
from moesim.errors import InvalidInput


def capture(
    model: Annotated[
        str | None, typer.Option("--model", help="Train a miniature with this model's router geometry and capture it.")
    ] = None,
    miniature: Annotated[
        str | None, typer.Option("--miniature", help="Remake this one of the shipped captures.")
    ] = None,
    transformers: Annotated[
        str | None, typer.Option("--transformers", metavar="CONFIG_OR_PATH", help="Hook a transformers MoE model.")
    ] = None,
    text: Annotated[Path | None, typer.Option("--text", help="Text that the transformers model reads.")] = None,
    shipped: Annotated[
        Path | None, typer.Option("--shipped", metavar="DIR", help="Remake all shipped captures into a folder.")
    ] = None,
    router: Annotated[
        str | None, typer.Option("--router", help="With --model or --miniature: another router (--list-routers).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace to write.")] = Path("trace.safetensors"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and batches.")] = 0,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Most tokens to capture (transformers).")] = None,
    token_ids: Annotated[
        bool,
        typer.Option("--token-ids", help="Record vocabulary ids too: they key caches of routes, and tell the text."),
    ] = False,
    list_routers: Annotated[
        bool, typer.Option("--list-routers", help="List the routers of the reference model.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Capture a router trace from a real forward pass (needs the extra ``lab``)."""
    if list_routers:
        _list_routers(json)
        return
    ways = {"--model": model, "--miniature": miniature, "--transformers": transformers, "--shipped": shipped}
    if sum(value is not None for value in ways.values()) != 1:
        raise InvalidInput("say what to capture: one of --model, --miniature, --transformers with --text, --shipped")
    if transformers and text is None:
        raise InvalidInput("--transformers needs --text FILE, which the model reads")
    if shipped and token_ids:
        raise InvalidInput("--shipped remakes the captures as they ship, without --token-ids; write --miniature NAME")
    need_torch()
    progress = Progress()
    if transformers:
        from moesim.lab.transformers_capture import capture_transformers

        written = [
            capture_transformers(
                transformers, text, out, max_tokens=tokens, token_ids=token_ids, rng_seed=seed, progress=progress
            )
        ]
    elif shipped is None:
        from moesim.lab.miniatures import capture_miniature, miniature_of
        from moesim.spec.model.file import load_model

        wanted = miniature or miniature_of(load_model(model))
        written = [capture_miniature(wanted, out, router=router, token_ids=token_ids, rng_seed=seed, progress=progress)]
    else:
        from moesim.lab.miniatures import remake_shipped

        written = remake_shipped(shipped, progress=progress)
    note_written(written)


def need_torch() -> None:
    """Refuse, with what to install, where PyTorch is missing."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise InvalidInput("captures need PyTorch; install the extra: pip install torch==2.13.0 'moesim[lab]'")


def _list_routers(json: bool) -> None:
    from moesim.routing.router_names import ROUTER_NAMES

    if json:
        print_json({"routers": [{"name": name, "summary": text} for name, text in ROUTER_NAMES.items()]})
        return
    say("Routers of the reference model (moesim capture, moesim compare-routers):")
    print_table(ROUTER_NAMES.items())
