"""A report as one HTML file that opens without a network, and as Markdown beside it.

plotly.js stands in the page once. The page's own policy (``Content-Security-Policy``) forbids every request, so that a
page which works is a page that needs nothing else. Equal reports are equal bytes: plots have counted names and nothing
holds a date.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from moesim.files import write_text
from moesim.report.html.page import Page, Section

MOST_BYTES = 6_000_000
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
_NUMBER = re.compile(r"[<×~≤]?\s*[-+−]?[\d.,]+\s*(%|×|[A-Za-zµ/·² ]{0,24})")


def write_page(page: Page, path: str | Path, pictures: Sequence[Path] = ()) -> list[Path]:
    """Write the page to `path`, and its Markdown under the same name with ``.md``. Returns both files.

    pictures: PNG files that the Markdown shows, wherever they are; the HTML draws its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".md")
    links = [os.path.relpath(picture, path.parent) for picture in pictures]
    for target, text in ((path, to_html(page)), (beside, to_markdown(page, links))):
        write_text(target, text)
    return [path, beside]


def to_html(page: Page) -> str:
    """The whole page as text. Raises ValueError beyond `MOST_BYTES`, which only a fault of ours can reach."""
    from plotly.offline import get_plotlyjs

    style = files("moesim.report.html").joinpath("page.css").read_text(encoding="utf-8")
    title = html.escape(page.title)
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{style}</style>\n<script>{get_plotlyjs()}</script>"
    )
    asked = "\n".join(f"<dt>{question}</dt><dd>{html.escape(text)}</dd>" for question, text in page.questions())
    figures = "\n".join(
        f'<li><div class="name">{html.escape(each.name)}</div><div class="value">{html.escape(each.value)}</div>'
        f'<div class="note">{html.escape(each.note)}</div></li>'
        for each in page.headline
    )
    sections = "\n".join(_section(section, number) for number, section in enumerate(page.sections, 1))
    text = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n<h1>{title}</h1>\n'
        f'<dl class="questions">\n{asked}\n</dl>\n<ul class="headline">\n{figures}\n</ul>\n{sections}\n'
        f"<footer><p>{html.escape(page.source)}</p></footer>\n</body>\n</html>\n"
    )
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"the report takes {len(text.encode()):,} bytes, beyond {MOST_BYTES:,}")
    return text


def _section(section: Section, number: int) -> str:
    parts = [f"<section>\n<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.plot is not None:
        parts.append(_plot(section, number))
    if section.table is not None:
        parts.append(f'<div class="table">{_table(section.table)}</div>')
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    return "\n".join([*parts, "</section>"])


def _plot(section: Section, number: int) -> str:
    from plotly.io import to_html as plot_to_html

    return plot_to_html(
        section.plot,
        config=_CONFIG,
        include_plotlyjs=False,
        full_html=False,
        default_height=f"{section.height}px",
        div_id=f"figure-{number}",
    )


def _table(table: pd.DataFrame) -> str:
    right = [_is_numeric(table.iloc[:, column]) for column in range(table.shape[1])]
    kinds = [' class="number"' if numeric else "" for numeric in right]
    header = "".join(
        f"<th{kind}>{html.escape(str(name))}</th>" for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = []
    for row in table.itertuples(index=False, name=None):
        cells = (f"<td{kind}>{html.escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>", *rows, "</tbody>\n</table>"])


def _is_numeric(cells: pd.Series) -> bool:
    """Whether a column reads as numbers, which stand to the right."""
    texts = [str(cell) for cell in cells if str(cell) not in ("", "–")]
    return bool(texts) and all(_NUMBER.fullmatch(text) for text in texts)


def to_markdown(page: Page, pictures: Sequence[str] = ()) -> str:
    """The page without its plots. pictures: relative paths of PNG files to show in their place."""
    lines = [f"# {page.title}", ""]
    lines += [f"**{question}.** {_plain(text)}\n" for question, text in page.questions()]
    lines += _pipes(pd.DataFrame([(f.name, f.value, f.note) for f in page.headline], columns=["figure", "value", ""]))
    lines += [line for picture in pictures for line in ("", f"![{Path(picture).stem.replace('_', ' ')}]({picture})")]
    for section in page.sections:
        if section.table is None and not section.code:
            continue  # of a plot alone there is nothing to say without it
        lines += ["", f"## {section.heading}"] + (["", section.text] if section.text else [])
        if section.table is not None:
            lines += ["", *_pipes(section.table)]
        if section.code:
            lines += ["", "```yaml", section.code.rstrip(), "```"]
    return "\n".join([*lines, "", f"*{page.source}*", ""])


def _pipes(table: pd.DataFrame) -> list[str]:
    right = [_is_numeric(table.iloc[:, column]) for column in range(table.shape[1])]
    rows = [list(table.columns), *table.itertuples(index=False, name=None)]
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "|".join(" ---: " if numeric else " --- " for numeric in right) + "|", *lines[1:]]


def _cell(value: object) -> str:
    return _plain(str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split())
