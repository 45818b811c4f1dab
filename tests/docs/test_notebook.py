"""The committed notebook is the one that its script builds, run to its end."""

import importlib.util
import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def cells():
    return json.loads((DOCS / "moesim.ipynb").read_text(encoding="utf-8"))["cells"]


def test_it_holds_the_cells_of_its_script(cells):
    spec = importlib.util.spec_from_file_location("build_notebook", DOCS / "build_notebook.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kinds = ["code" if text.startswith("\n") else "markdown" for text in script.CELLS]
    assert [cell["cell_type"] for cell in cells] == kinds
    assert ["".join(cell["source"]) for cell in cells] == [text.strip("\n") for text in script.CELLS]


def test_every_cell_ran_in_order_and_shows_something(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert all(cell["outputs"] for cell in code)
    assert sum("text/html" in output.get("data", {}) for cell in code for output in cell["outputs"]) >= 7


def test_it_is_small_and_names_no_machine():
    text = (DOCS / "moesim.ipynb").read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "/tmp/" not in text
    assert "/home/" not in text
