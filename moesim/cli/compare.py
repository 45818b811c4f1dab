"""``moesim compare``: what differs between two scenarios, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import check_folder, check_html, note_written, print_json, print_table, say, write_html

_MOST_FIGURES = 12  # beside the headline; --json has all


def compare(
    a: Annotated[
        str, typer.Argument(help="Name of a shipped scenario, or a YAML file.", autocompletion=complete_scenario)
    ],
    b: Annotated[
        str | None,
        typer.Argument(
            help="Another of the same kind; without, A with the changes of --set.", autocompletion=complete_scenario
        ),
    ] = None,
    change: Annotated[list[str] | None, set_option("Change a field of B.")] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Also say what each differing key does alone: one more run a key.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for a picture and the tables.")] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Run two scenarios and say what differs, in which operations, ranks, links and bytes."""
    from moesim.study.comparison.compare import compare as run_both

    if out is not None:
        check_folder(out)
    check_html(html)
    found = run_both(a, b, change or (), each=each)
    written = note_written([] if out is None else _write(found, out))
    if html is not None:
        from moesim.report.html.comparison import comparison_page

        write_html(comparison_page(found), html, written)
    if json:
        print_json(found.data())
    else:
        _print(found)


def _write(found, folder: Path) -> list[Path]:
    from moesim.files import write_table
    from moesim.report.figures.comparison import draw_comparison

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "comparison.png"]
    draw_comparison(found, paths[0])
    for name, table in found.tables().items():
        paths.append(folder / f"{name}.csv")
        write_table(paths[-1], table)
    return paths


def _print(found) -> None:
    for label, name, title in zip("AB", found.names, found.titles, strict=True):
        say(f"{label}: {name}: {title}" if title else f"{label}: {name}")
    say()
    print_table(found.fields.itertuples(index=False), header=("field", "A", "B"))
    say()
    headline = found.figures[found.figures["figure"].isin(found.kind.headline)]
    others = found.figures.drop(headline.index).dropna(subset="relative")
    others = others.loc[others["relative"].abs().sort_values(ascending=False, kind="stable").index]
    _print_figures(headline, others.head(_MOST_FIGURES), found.operations.empty)
    if not found.operations.empty:
        _print_operations(found)
    if not found.hot_spots.empty:
        say()
        print_table(found.hot_spots.itertuples(index=False), header=("", "A", "B"))
    if not found.memory.empty:
        _print_memory(found.memory)
    if not found.effects.empty:
        _print_effects(found.effects)


def _print_figures(headline, others, with_others: bool) -> None:
    rows = [*headline.itertuples(index=False), *(others.itertuples(index=False) if with_others else ())]
    print_table(
        [(row.figure, _number(row.a), _number(row.b), _percent(row.relative)) for row in rows],
        header=("figure", "A", "B", "change"),
        right=(1, 2, 3),
    )


def _print_operations(found) -> None:
    from moesim.units import format_seconds

    total = found.figures.set_index("figure").loc["step_time_s", "change"]
    rows = [
        (
            row.operation,
            *(("", "") if row.a_s < 0 or row.b_s < 0 else map(format_seconds, (row.a_s, row.b_s))),
            _signed(row.change_s),
            f"{row.change_s / total:+.0%}" if total else "",
            _signed(row.waiting_change_s) if abs(row.waiting_change_s) > 1e-9 else "",
        )
        for row in found.operations.itertuples(index=False)
    ]
    say()
    header = ("operation (mean over ranks)", "A", "B", "change", "of the step's change", "of it waiting")
    print_table([*rows, ("step", "", "", _signed(total), "", "")], header=header, right=range(1, 6))


def _print_memory(memory) -> None:
    from moesim.units import format_bytes

    rows = [
        (row.kind, format_bytes(row.a_bytes), format_bytes(row.b_bytes), _signed(row.change_bytes, format_bytes))
        for row in memory.itertuples(index=False)
    ]
    say()
    print_table(rows, header=("HBM of the fullest rank", "A", "B", "change"), right=(1, 2, 3))


def _print_effects(effects) -> None:
    rows = [
        (row.field, row.value, _percent(row.relative) if not row.reason else "impossible alone")
        for row in effects.itertuples(index=False)
    ]
    say()
    print_table(rows, header=("A with only this of B", "", effects["figure"].iloc[0]))
    for row in effects[effects["reason"] != ""].itertuples(index=False):
        say(f"{row.field}: {row.reason}")


def _signed(value: float, form=None) -> str:
    from moesim.units import format_seconds

    return "0" if not value else f"{'−' if value < 0 else '+'}{(form or format_seconds)(abs(value))}"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.5g}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:+.1%}"
