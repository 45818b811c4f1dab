"""How results are printed: the result to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moesim.errors import InvalidInput
from moesim.files import write_table

if TYPE_CHECKING:
    from moesim.report.html.page import Page


def say(text: str = "") -> None:
    """A line of the result."""
    typer.echo(text)


def note(text: str) -> None:
    """A line that is not the result: progress, files written, warnings."""
    typer.echo(text, err=True)


def note_written(paths: Iterable[Path]) -> list[Path]:
    """Say which files were written, and hand them on."""
    written = list(paths)
    for path in written:
        note(f"wrote {path}")
    return written


def print_heading(metrics: dict) -> None:
    """The lines that every step's result begins with: what ran, and what was changed in it or what it is for."""
    say(f"{metrics['scenario']}: {metrics['title']}")
    if metrics["changes"]:
        say(f"changed: {', '.join(metrics['changes'])}")
    elif metrics["description"]:
        say(metrics["description"].strip())
    say()


def print_json(data: object) -> None:
    """One JSON object; keys keep their order, so equal results print equal bytes."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False))


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written to. Makes nothing."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InvalidInput(f"{option} {folder}: {place} is a file; name a folder")
    if not os.access(place, os.W_OK):
        raise InvalidInput(f"{option} {folder}: cannot write in {place}; name another folder")


def check_html(path: Path | None) -> None:
    """Refuse, before the work, a page that could not be written: a wrong place or name, or plotly missing."""
    if path is None:
        return
    if path.suffix != ".html":
        raise InvalidInput(f"--html {path}: name a file that ends in .html")
    if path.is_dir():
        raise InvalidInput(f"--html {path}: is a folder; name a file in it")
    if find_spec("plotly") is None:
        raise InvalidInput("--html needs plotly; install it: pip install 'moesim[report]'")
    check_folder(path.parent, "--html")


def write_html(page: Page, path: Path, written: Iterable[Path] = ()) -> None:
    """Write a report and say so. written: files of --out, whose pictures the Markdown shows."""
    from moesim.report.html.render import write_page

    for each in write_page(page, path, [picture for picture in written if picture.suffix == ".png"]):
        note(f"wrote {each}")


def save_table(table, path: Path) -> None:
    """Write a DataFrame as CSV or Parquet, by the name's ending, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table)
    note(f"wrote {path}")


def records(table) -> list[dict]:
    """Rows of a DataFrame as JSON can hold them; NaN becomes null."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def print_table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: Iterable[int] = ()) -> None:
    """Aligned columns of text. right: columns to align right. Never wrapped or coloured, so that it can be grepped."""
    rows = [list(map(str, row)) for row in rows]
    table = [list(header), ["-" * len(name) for name in header], *rows] if header else rows
    if not table:
        return
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if header:
        table[1] = ["-" * width for width in widths]
    right = set(right)
    for row in table:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        say("  ".join(cells).rstrip())


def print_statistics(
    table, numbers: Iterable[str], shown: Callable[[str, float], str], label: Callable[[str], str] = str
) -> None:
    """A DataFrame whose columns are labels, but for those of `numbers` that it has, which go to the right.

    shown: text of a number of a column. label: text of a label.
    """
    numbers = [name for name in numbers if name in table]
    labels = [name for name in table.columns if name not in numbers]
    rows = (
        (*(label(row[name]) for name in labels), *(shown(name, row[name]) for name in numbers))
        for row in table.to_dict("records")
    )
    print_table(rows, header=(*labels, *numbers), right=range(len(labels), len(labels) + len(numbers)))


class Progress:
    """A line on stderr that is rewritten in place; silent unless stderr is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str, done: int, total: int) -> None:
        """Report that `done` of `total` parts of what `text` names are finished."""
        if self._shown:
            sys.stderr.write(f"\r{text} {done}/{total}\x1b[K" + ("\n" if done >= total else ""))
            sys.stderr.flush()
