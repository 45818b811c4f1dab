"""``moesim claims``: statements about MoE systems put to the test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_claim
from moesim.cli.options import JsonOption
from moesim.cli.output import Progress, check_folder, note, note_written, print_json, print_table, say


def claims(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID…", help="Claims to decide; all by default.", autocompletion=complete_claim),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="A claim file instead of those shipped; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of finished measurements; the same again goes on.")] = Path(
        "out/claims"
    ),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes.")] = 1,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for claims.md, its pictures, and claims.html.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Decide what surveys say about MoE systems: holds, holds only when, does not hold, or not decidable here."""
    from moesim.study.claims.reading import read_claims
    from moesim.study.claims.running import measure_all
    from moesim.study.claims.table import claims_json
    from moesim.study.claims.verdict import decide

    for folder in (out, report):
        if folder is not None:
            check_folder(folder)
    read = read_claims(file or (), wanted or ())
    progress = Progress()
    measured = measure_all(read, out, jobs=jobs, progress=lambda done, total: progress("measured", done, total))
    decided = [decide(claim, measured) for claim in read]
    if report is not None:
        from moesim.report.claims import write_claims_report

        note_written(write_claims_report(decided, report))
    if json:
        print_json(claims_json(decided))
    else:
        _print(decided, len(wanted or ()) > 0)
    cpu = sum(result.cpu_s for result in measured.values())
    note(f"{len(measured)} measurements took {cpu:,.0f} s of CPU time in all; kept in {out}")


def _print(decided: list, in_full: bool) -> None:
    from moesim.study.claims.table import counts, figures_of

    for each in decided:
        when = f" {each.when}" if each.when else ""
        say(f"{each.claim.id}  {each.verdict.upper()}{when}")
        say(f"  {each.claim.says}")
        for line in figures_of(each):
            say(f"  · {line}")
        if each.reason:
            say(f"  because {each.reason}" if not each.rows else f"  {each.reason}")
        if in_full:
            if each.claim.note:
                say(f"  {each.claim.note}")
            _print_rows(each)
    say()
    say(", ".join(f"{count} {verdict}" for verdict, count in counts(decided).items()))


def _print_rows(decided) -> None:
    from moesim.study.claims.table import columns_of

    if len(decided.rows) > 1:
        header, rows = columns_of(decided)
        say()
        print_table(rows, header, right=range(len(header)))
        say()
