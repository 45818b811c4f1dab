"""A report as a value, whatever study it is of; `moesim.report.html.render` writes it as HTML and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the headline's figures: a name, the value as text, and what stands small below it (its interval)."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A heading with, in this order and each optional, a paragraph, a plot, a table and a block of YAML.

    table: cells are texts, or numbers printed as they are. height: of the plot, in pixels.
    """

    heading: str
    text: str = ""
    plot: go.Figure | None = None
    table: pd.DataFrame | None = None
    code: str = ""
    height: int = 420


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A report. asked, answer, sure, why: what was asked, what came out or is recommended, how sure that is, and why;
    a sentence or more each, and enough for who reads no further. headline: a few figures. source: version and hash."""

    title: str
    asked: str
    answer: str
    sure: str
    why: str
    headline: tuple[Figure, ...]
    sections: tuple[Section, ...]
    source: str

    def questions(self) -> tuple[tuple[str, str], ...]:
        """The four questions that a report answers first, with the answers."""
        asked = ("What was asked", self.asked), ("What comes out", self.answer)
        return (*asked, ("How sure", self.sure), ("Why", self.why))
