"""``moesim check``: compare with a baseline, for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.output import Progress, note, say
from moesim.errors import InvalidInput, Problem

DEFAULT = Path("baseline.yaml")


def check(
    baseline: Annotated[
        Path | None, typer.Argument(help="A baseline file; ./baseline.yaml, else that of moesim itself.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline anew with what is found now.")] = False,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            autocompletion=complete_scenario,
            metavar="NAME",
            help="Add a scenario or a measured table to the baseline, and update it.",
        ),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="FORMAT[=FILE]", help="text, json, markdown, github or junit; several with =FILE."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="REVISION", help="Of git, from which changed lines count.")
    ] = None,
) -> None:
    """Run the scenarios and measured anchors of a baseline. Exit 1 when one fails that worked, drifts beyond its
    tolerance, or errs more."""
    from moesim.study.regression_check.baseline import add as with_entries
    from moesim.study.regression_check.baseline import new_baseline, read_baseline, shipped_baseline, write_baseline
    from moesim.study.regression_check.check import check as run_check

    forms = _forms([*(form or ()), *(["json"] if json else [])] or ["text"])
    path = baseline or (DEFAULT if DEFAULT.exists() or add else shipped_baseline())
    document = new_baseline(path) if add and not path.exists() else read_baseline(path)
    show = Progress()
    result = run_check(with_entries(document, add or ()), lambda name, done, total: show("checked", done, total))
    if update or add:
        _refuse_failures(result)
        write_baseline(result.data, path)
        note(f"wrote {path}")
        return
    since = since or (f"origin/{os.environ['GITHUB_BASE_REF']}" if os.environ.get("GITHUB_BASE_REF") else "HEAD")
    _report(result, forms, since)
    if result.blocks:
        raise typer.Exit(1)


def _forms(wanted: list[str]) -> list[tuple[str, Path | None]]:
    from moesim.report.check_formats import FORMATS
    from moesim.spec.reading.complaints import did_you_mean, one_of

    found = []
    for text in wanted:
        name, _, file = text.partition("=")
        if name not in FORMATS:
            told = f"{name!r} is no format{did_you_mean(name, FORMATS) or '; ' + one_of(FORMATS)}"
            raise InvalidInput(Problem(told, "--format"))
        found.append((name, Path(file) if file else None))
    if sum(file is None for _, file in found) > 1:
        raise InvalidInput(Problem("only one format can go to the output; write FORMAT=FILE for others", "--format"))
    return found


def _report(result, forms: list[tuple[str, Path | None]], since: str) -> None:
    from moesim.files import write_text
    from moesim.report.check_formats import FORMATS
    from moesim.study.regression_check.changed_lines import places

    located = places(result, since)
    for name, file in forms:
        text = FORMATS[name](result, located)
        if file is None:
            say(text)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text + "\n")
        note(f"wrote {file}")


def _refuse_failures(result) -> None:
    failed = [f for f in result.findings if f.figure == "status" and f.found == "failed"]
    failed += [f for f in result.findings if f.part == "anchors" and f.found is None]
    if failed:
        raise InvalidInput(
            Problem(f"{finding.message}; the baseline was left as it was", finding.name) for finding in failed
        )
