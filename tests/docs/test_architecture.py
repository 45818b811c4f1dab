"""The map of the house is true: every path, name, room and command on it is there, and nothing is missing from it."""

import re
import tomllib
from pathlib import Path

import pytest

from moesim.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = "The rooms of `study`"


def rows(heading):
    """Rows of the table below a heading, as cells; without its head."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|") for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[1:]]


def quoted(text):
    return re.findall(r"`([^`]+)`", text)


def found(path):
    """The file or folder of a path on the page, from the root or from the package."""
    return next((place for place in (ROOT / path, ROOT / "moesim" / path) if place.exists()), None)


def test_every_path_and_link_of_the_map_leads_somewhere():
    names = {text for text in quoted(PAGE) if "NAME" not in text and " " not in text}
    paths = {text for text in names if "/" in text or text.endswith((".py", ".md", ".toml"))}
    assert len(paths) > 80
    assert {path for path in paths if not found(path)} == set()
    links = set(re.findall(r"\]\(([^)#]+)\)", PAGE))
    assert {link for link in links if not (ROOT / "docs" / link).exists()} == set()


@pytest.mark.parametrize("row", rows("To change something"), ids=lambda row: row[0])
def test_what_a_row_names_is_defined_in_a_file_of_the_row(row):
    _, opened, told = row
    texts = [found(path).read_text(encoding="utf-8") for path in quoted(opened) if path.endswith(".py")]
    for name in (text for text in quoted(opened) if re.fullmatch(r"[A-Z_]{4,}|Policy", text) and text != "NAME"):
        assert any(re.search(rf"^(class )?{name}\b", text, re.M) for text in texts), name
    assert quoted(told)
    assert all(Path(path).name.startswith("test_") for path in quoted(told))


def test_every_package_has_its_floor():
    shown = {text for row in rows("The floors") for text in quoted(row[1])}
    packages = {path.parent.name for path in (ROOT / "moesim").glob("*/__init__.py")}
    assert shown == packages | {"units", "errors", "files"}


def test_the_rooms_of_study_stand_in_the_order_that_is_enforced():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["moesim.study"])
    order = {name: place for place, layer in enumerate(layers) for name in layer.split(" | ")}
    shown = [Path(quoted(row[0])[0]).parts[1].removesuffix(".py") for row in rows(ROOMS)]
    assert set(shown) == set(order)
    assert [order[name] for name in shown] == sorted(order[name] for name in shown)


def test_every_command_stands_at_its_room():
    commands = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    shown = {text.split()[0] for row in rows(ROOMS) for text in quoted(row[2])}
    # Of no study: captures and their import (lab, routing), and the schemas.
    assert commands - shown == {"capture", "import-trace", "schema"}
    assert shown <= commands
