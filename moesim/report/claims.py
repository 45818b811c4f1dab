"""The report of claims: Markdown with pictures beside it, and one HTML page that holds everything."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from moesim.files import write_text
from moesim.report.figures.canvas import save_figure
from moesim.report.figures.claims import draw_claim
from moesim.study.claims.table import columns_of, counts, figures_of
from moesim.study.claims.verdict import FAILS, HOLDS, ONLY_WHEN, OPEN, Decided

_COLOURS = {HOLDS: "#2e7d32", ONLY_WHEN: "#b26a00", FAILS: "#b3261e", OPEN: "#5f6368"}
_TITLE = "What is said of MoE systems, put to the test"
_INTRODUCTION = (
    "Surveys of Mixture-of-Experts systems make many quantitative statements, some of which contradict each "
    "other. Each is told here in our words, with what moesim computes for it and the verdict that follows from "
    "the figures: it holds everywhere on the grid that is looked at, only on a part of it, nowhere, or cannot be "
    "decided here. Bounds are those of the statement; where it says 'about', the note says how that is read. "
    "Yellow is what is claimed. Step times carry the errors that validation.md states, so verdicts near a bound "
    "are not to be leaned on."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f1f1f }
article { border-top: 1px solid #ddd; padding: 0.6rem 0 }
h2 { font-size: 1rem; margin: 0.3rem 0 } .verdict { color: white; border-radius: 4px; padding: 0.1rem 0.5rem }
.note { color: #555; font-size: 0.9rem } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 0.85rem } td, th { padding: 0.1rem 0.6rem; text-align: right }
details { font-size: 0.9rem } summary { cursor: pointer; color: #555 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #e6e6e6 } img { background: white }
  .note, summary { color: #aaa } article { border-color: #444 } }
"""


def write_claims_report(decided: Sequence[Decided], folder: str | Path) -> tuple[Path, ...]:
    """Write ``claims.md`` with its pictures in ``figures/claims/``, and ``claims.html``, which needs no other file."""
    folder = Path(folder)
    pictures = folder / "figures" / "claims"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for each in decided:
        figure = draw_claim(each)
        if figure is not None:
            drawn[each.claim.id] = pictures / f"{each.claim.id}.png"
            save_figure(figure, drawn[each.claim.id])
    pages = {"claims.md": _markdown(decided, drawn, folder), "claims.html": _html(decided, drawn)}
    for name, text in pages.items():
        write_text(folder / name, text)
    return tuple(folder / name for name in pages)


def _verdict(decided: Decided) -> str:
    return f"{decided.verdict} {decided.when}".strip()


def _markdown(decided: Sequence[Decided], drawn: dict[str, Path], folder: Path) -> str:
    lines = [f"# {_TITLE}", "", "Made by `moesim claims --report reports`.", "", _INTRODUCTION, ""]
    lines += ["| verdict | claims |", "|---|---|", *(f"| {v} | {n} |" for v, n in counts(decided).items()), ""]
    lines += ["| claim | verdict | what is said |", "|---|---|---|"]
    lines += [f"| [{d.claim.id}](#{d.claim.id}) | {d.verdict} | {_cell(d.claim.says)} |" for d in decided]
    for each in decided:
        lines += ["", f"## {each.claim.id}", "", each.claim.says, "", f"**{_verdict(each)}**", ""]
        lines += [f"- {line}" for line in figures_of(each)]
        lines += [f"- because {each.reason}" if not each.rows else f"- {each.reason}"] if each.reason else []
        lines += ["", each.claim.note] if each.claim.note else []
        if each.claim.id in drawn:
            lines += ["", f"![{each.claim.id}]({drawn[each.claim.id].relative_to(folder).as_posix()})"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _html(decided: Sequence[Decided], drawn: dict[str, Path]) -> str:
    summary = " · ".join(f"{count} {verdict}" for verdict, count in counts(decided).items())
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{_TITLE}</title><style>{_STYLE}</style></head><body>',
        f"<h1>{_TITLE}</h1><p>{escape(_INTRODUCTION)}</p><p><b>{escape(summary)}</b></p>",
        *(_article(each, drawn.get(each.claim.id)) for each in decided),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _article(decided: Decided, picture: Path | None) -> str:
    claim, colour = decided.claim, _COLOURS[decided.verdict]
    parts = [
        f'<article id="{escape(claim.id)}"><h2>{escape(claim.id)} <span class="verdict" style="background:{colour}">'
        f"{escape(decided.verdict)}</span> {escape(decided.when)}</h2><p>{escape(claim.says)}</p>",
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in figures_of(decided)) + "</ul>" if decided.rows else "",
        f"<p>{'Because ' if not decided.rows else ''}{escape(decided.reason)}</p>" if decided.reason else "",
        f'<p class="note">{escape(claim.note)}</p>' if claim.note else "",
    ]
    if picture is not None:
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<img alt="{escape(claim.id)}" src="data:image/png;base64,{data}">')
    if len(decided.rows) > 1:
        parts.append(_table(decided))
    return "".join(parts) + "</article>"


def _table(decided: Decided) -> str:
    header, rows = columns_of(decided)
    out = io.StringIO()
    out.write("<details><summary>all points</summary><table><tr>")
    out.writelines(f"<th>{escape(name)}</th>" for name in header)
    out.write("</tr>")
    for row in rows:
        out.write("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    out.write("</table></details>")
    return out.getvalue()
