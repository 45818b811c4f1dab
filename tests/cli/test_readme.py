"""The README's commands, as a user types them."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# Files that only the reader has, and commands that train or measure for minutes (tested where they live).
NOT_HERE = re.compile(r"^plan |mine|my_|my\.txt|path/to|\.jsonl|capture|compare-routers|--local|--measure")


def commands():
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.S):
        for line in block.splitlines():
            if line.startswith("$ moesim "):
                yield line.removeprefix("$ moesim ").split("  #")[0].strip()


RUNNABLE = [command for command in commands() if not NOT_HERE.search(command)]


def test_the_readme_has_commands():
    assert len(RUNNABLE) >= 8


@pytest.mark.parametrize("command", RUNNABLE)
def test_a_command_of_the_readme_works(moesim, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = moesim(*shlex.split(command, comments=True))
    assert code == 0, err
    assert out.strip()


def test_every_linked_file_is_there():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (root / target).exists(), target
