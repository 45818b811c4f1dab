"""``moesim pareto``: throughput of a device against speed for a user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import JsonOption, set_option
from moesim.cli.output import Progress, note, print_json, print_table, records, say
from moesim.errors import InvalidInput, Problem


def pareto(
    scenario: Annotated[
        str,
        typer.Argument(help="Name of a shipped serving scenario, or a YAML file.", autocompletion=complete_scenario),
    ],
    concurrency: Annotated[str, typer.Option("--concurrency", help="Requests in flight, e.g. 1,2,4,8.")] = "1,4,16,64",
    measured: Annotated[Path | None, typer.Option("--measured", help="Table of measured runs to overlay.")] = None,
    twin: Annotated[bool, typer.Option("--twin", help="Also the dense twin, and where the two cross.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw into this PNG.")] = None,
    json: JsonOption = False,
    change: Annotated[list[str] | None, set_option("Change a field of the scenario.")] = None,
) -> None:
    """Sweep the load of a serving scenario: tokens/s a device against tokens/s a user."""
    from moesim.study.serving_load.pareto import crossover, measured_points
    from moesim.study.serving_load.pareto import pareto as sweep
    from moesim.study.validation.tables import read_table

    loads = _numbers(concurrency)
    show = Progress()
    table = sweep(scenario, loads, change or (), twin=twin, progress=lambda done, total: show("loads", done, total))
    points = None if measured is None else measured_points(read_table(measured), scenario, change or ())
    if out is not None:
        from moesim.report.figures.serving import draw_pareto

        draw_pareto(table, out, points, scenario)
        note(f"wrote {out}")
    crossing = crossover(table) if twin else None
    if json:
        data = {"schema_version": 1, "points": records(table), "crossover_concurrency": crossing}
        print_json(data | ({"measured": records(points)} if points is not None else {}))
        return
    _print(table)
    if points is not None:
        say()
        say(f"{len(points)} measured runs of this model, hardware, stack, size and lengths")
    if twin:
        say()
        where = "is nowhere in this range" if crossing is None else f"is at {crossing:.0f} in flight"
        say(f"the crossover of tokens/s a device with the dense twin {where}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(Problem(f"{text!r}: write whole numbers with commas, e.g. 1,2,4,8", "concurrency")) from None


def _print(table) -> None:
    from moesim.units import format_seconds

    header = ("model", "in flight", "TTFT", "TPOT", "tokens/s/device", "tokens/s/user", "efficient")
    rows = (
        (
            row.model,
            row.concurrency,
            format_seconds(row.ttft_s),
            format_seconds(row.tpot_s),
            f"{row.output_tokens_per_s_per_device:,.0f}",
            f"{row.tokens_per_s_per_user:,.1f}",
            "yes" if row.efficient else "",
        )
        for row in table.itertuples()
    )
    print_table(rows, header, right=range(1, 6))
