"""``moesim explain``: how a scenario's ranks lie on the topology."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import JsonOption, set_option
from moesim.cli.output import check_folder, note, print_json, print_table, say
from moesim.errors import InvalidInput


def explain(
    scenario: Annotated[
        str, typer.Argument(help="Name of a shipped scenario, or a YAML file.", autocompletion=complete_scenario)
    ],
    out: Annotated[Path | None, typer.Option("--out", help="PNG to draw the groups on the nodes to.")] = None,
    change: Annotated[list[str] | None, set_option("Change a field.")] = None,
    pool: Annotated[
        str, typer.Option("--pool", metavar="decode|prefill", help="Of disaggregated servers: which of them.")
    ] = "decode",
    json: JsonOption = False,
) -> None:
    """Print the rank order, what each degree's groups span, and the bytes that their collectives carry."""
    from moesim.study.inspection.explain import explain as explained

    if pool not in ("decode", "prefill"):
        raise InvalidInput(f"--pool {pool}: write decode or prefill")
    if out is not None:
        check_folder(out.parent)
    layout, data = explained(scenario, change or (), pool)
    if out is not None:
        from moesim.report.figures.layout import draw_layout

        draw_layout(layout.cluster, layout.axes(), out, data["title"])
        note(f"wrote {out}")
    if json:
        print_json(data)
    else:
        _print(data)


def _print(data: dict) -> None:
    from moesim.units import format_bytes

    copies = f", {data['instances']} instances" if data["instances"] > 1 else ""
    say(f"{data['title']}: {data['devices']} ranks{copies}")
    order = data["order"]
    if order:
        say(f"rank order: {' then '.join(order)}; {order[0]} runs fastest, so its groups are neighbours")
    say()
    rows = [(row["axis"], row["degree"], row["groups"], row["span"], _ranks(row["first"])) for row in data["groups"]]
    print_table(rows, header=("degree", "ranks", "groups", "span", "first group"), right=(1, 2))
    say()
    sent = [
        (
            row["axis"],
            row["collective"],
            f"{row['calls_per_step']:,.0f}",
            format_bytes(row["bytes_per_call"]),
            format_bytes(row["largest_call_bytes"]),
            format_bytes(row["bytes_per_step"]),
        )
        for row in data["collectives"]
    ]
    say(f"bytes that a group's members send each other in {data['what']}")
    print_table(
        sent, header=("degree", "collective", "calls", "mean call", "largest call", "a step"), right=(2, 3, 4, 5)
    )


def _ranks(ranks: list[int]) -> str:
    """Ranks in short: runs as 0-7, even strides as 0, 8 … 56."""
    if len(ranks) > 2 and len({b - a for a, b in pairwise(ranks)}) == 1:
        step = ranks[1] - ranks[0]
        return f"{ranks[0]}-{ranks[-1]}" if step == 1 else f"{ranks[0]}, {ranks[1]} … {ranks[-1]}"
    shown = ", ".join(map(str, ranks[:6]))
    return shown + (" …" if len(ranks) > 6 else "")
