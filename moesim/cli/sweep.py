"""``moesim sweep``: a grid over the fields of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_field, complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import (
    Progress,
    check_folder,
    check_html,
    note,
    print_json,
    print_table,
    records,
    say,
    write_html,
)
from moesim.errors import Infeasible, InvalidInput, Problem


def sweep(
    scenario: Annotated[
        str,
        typer.Argument(
            help="A scenario of any kind, or a sweep file (docs/sweeps.md).", autocompletion=complete_scenario
        ),
    ],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            autocompletion=complete_field,
            metavar="FIELD=A,B,C",
            help="Vary a field; FIELD+FIELD=… gives both the same value.",
        ),
    ] = None,
    change: Annotated[list[str] | None, set_option("Change a field in every run.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results, out/sweep-SCENARIO by default.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes; all processors by default.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="A cluster: tcp://HOST:8786 (Dask) or ray://HOST:10001 (Ray).")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Run the I-th of N parts, for batch systems.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="The figure to print and draw, e.g. step_time_s.")
    ] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Run a grid of scenarios. A stopped sweep goes on where it stopped: give the same command again."""
    from moesim.study.scenarios import kind_of
    from moesim.study.sweeps.grid import parse_axis, read_grid
    from moesim.study.sweeps.sweep import RESULTS, run_grid

    check_html(html)
    part = _shard(shard)
    grid = read_grid(scenario, [parse_axis(text) for text in over or ()], change or ())
    folder = out or Path("out") / f"sweep-{Path(scenario).name.removesuffix('.yaml')}"
    check_folder(folder)
    show = Progress()
    table = run_grid(
        grid,
        folder=folder,
        jobs=jobs,
        scheduler=scheduler,
        shard=part,
        progress=lambda done, total: show("runs", done, total),
    )
    note(f"wrote {folder / RESULTS}")
    kind = kind_of(grid.base)
    metric = metric or grid.metric or kind.plotted
    _draw(table, grid, metric, folder / "sweep.png")
    if html is not None:
        from moesim.report.html.sweep import sweep_page

        write_html(sweep_page(grid, table, metric, kind.headline), html)
    if json:
        print_json(_object(table, grid))
    else:
        _print(table, grid.fields, list(dict.fromkeys((metric, *kind.headline))))
    _judge(table)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise InvalidInput(Problem(f"write I/N, e.g. 1/20, not {text!r}", "--shard"))
    return int(index), int(count)


def _draw(table, grid, metric: str, path: Path) -> None:
    from moesim.report.figures.sweep import draw_sweep
    from moesim.spec.reading.complaints import did_you_mean

    if metric not in table and (table["status"] == "ok").any():
        numbers = [column for column in table.select_dtypes("number") if column not in grid.fields]
        known = did_you_mean(metric, numbers) or f"; write one of {', '.join(numbers)}"
        raise InvalidInput(Problem(f"no figure is named {metric!r}{known}", "--metric"))
    if draw_sweep(table, grid.leading, metric, path, grid.base.name):
        note(f"wrote {path}")


def _object(table, grid) -> dict[str, object]:
    from moesim.study.results.record import origin, rounded

    return {
        **origin(grid.base),
        "seed": grid.base.data.get("seed", 0),
        "over": [{field: list(values) for field, values in axis.items()} for axis in grid.axes],
        "counts": _counts(table),
        "runs": rounded(records(table.drop(columns="moesim_version", errors="ignore"))),
    }


def _counts(table) -> dict[str, int]:
    from moesim.study.sweeps.sweep import STATUSES

    return {status: int((table["status"] == status).sum()) for status in STATUSES}


def _print(table, fields, metrics: list[str]) -> None:
    shown = [name for name in metrics if name in table]
    rows = [
        (*(_text(row[field]) for field in fields), row["status"], *(_text(row[name]) for name in shown))
        for row in table.to_dict("records")
    ]
    right = range(len(fields) + 1, len(fields) + 1 + len(shown))
    print_table(rows, header=(*fields, "status", *shown), right=right)
    counts = ", ".join(f"{count} {status}" for status, count in _counts(table).items() if count)
    say()
    say(f"{len(table)} runs: {counts}")
    reasons = table[table["reason"] != ""].groupby("reason", sort=False).size()
    for reason, count in list(reasons.items())[:5]:
        say(f"{count} × {reason.splitlines()[0]}")
    if len(reasons) > 5:
        say(f"… and {len(reasons) - 5} other reasons, in the results")


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return str(value)


def _judge(table) -> None:
    """A sweep of which nothing came is no success; single runs that went wrong are results."""
    run = table[table["status"] != "missing"]
    if len(run) and not (run["status"] == "ok").any():
        wrong = Infeasible if (run["status"] == "infeasible").any() else InvalidInput
        raise wrong(f"none of the runs worked; the first says: {run['reason'].iloc[0]}")
