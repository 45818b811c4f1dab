import re

import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from moesim.report.html import render
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.plots import coarse


def page(**other):
    sections = (
        Section("A <plot>", "of a line", go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name="</script><b>"))),
        Section("A table", table=pd.DataFrame({"name": ["a|b", "<i>"], "time": ["1.2 ms", "30 µs"]})),
        Section("YAML", code="seed: 7\n"),
    )
    whole = {"title": "A & B", "asked": "Why?", "answer": "So.", "sure": "Very.", "why": "Because."}
    headline = (Figure("step time", "3 ms", "2 ms – 4 ms"),)
    return Page(**(whole | {"headline": headline, "sections": sections, "source": "moesim 1; x, hash 2"} | other))


def test_the_page_holds_plotly_once_and_asks_for_nothing_else():
    text = render.to_html(page())
    assert text.count(get_plotlyjs()) == 1
    rest = text.replace(get_plotlyjs(), "")
    assert "default-src 'none'" in rest
    assert not re.findall(r"""(?:src|href)=["']|url\(|@import|https?://""", rest)
    assert len(text.encode()) <= render.MOST_BYTES


def test_texts_of_users_cannot_break_the_page():
    rest = render.to_html(page()).replace(get_plotlyjs(), "")
    assert "<title>A &amp; B</title>" in rest
    assert "A &lt;plot&gt;" in rest
    assert "&lt;i&gt;" in rest
    assert "</script><b>" not in rest


def test_equal_pages_are_equal_bytes():
    assert render.to_html(page()) == render.to_html(page())
    assert 'id="figure-1"' in render.to_html(page())


def test_numbers_stand_to_the_right_and_names_to_the_left():
    rest = render.to_html(page())
    assert '<td>a|b</td><td class="number">1.2 ms</td>' in rest


def test_markdown_answers_the_same_questions_and_shows_the_pictures():
    lines = render.to_markdown(page(), ["out/time line.png"]).splitlines()
    assert lines[0] == "# A & B"
    assert [line.split("**")[1] for line in lines if line.startswith("**")] == [
        "What was asked.", "What comes out.", "How sure.", "Why.",
    ]  # fmt: skip
    assert "![time line](out/time line.png)" in lines
    assert "| a\\|b | 1.2 ms |" in lines
    assert "## A <plot>" not in lines  # nothing to say without its plot


def test_a_page_too_large_is_a_fault(monkeypatch):
    monkeypatch.setattr(render, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="beyond 1,000"):
        render.to_html(page())


def test_files_are_written_whole_beside_each_other(tmp_path):
    picture = tmp_path / "pictures" / "a.png"
    written = render.write_page(page(), tmp_path / "new" / "a.html", [picture])
    assert [path.name for path in written] == ["a.html", "a.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.html", "a.md"]
    assert "(../pictures/a.png)" in written[1].read_text()


def test_a_wide_heat_map_keeps_the_largest_of_each_block():
    import numpy as np

    table = np.arange(2 * 1300, dtype=float).reshape(2, 1300)
    grid, block = coarse(table)
    assert (grid.shape, block) == ((2, 434), 3)
    assert grid[0, 0] == 2
    assert grid[1, -1] == 2599
