import json
import sys

import pytest

from moesim.cli import main


@pytest.fixture
def moesim(capsys, monkeypatch):
    """Run the command line in this process: ``code, out, err = moesim("run", "quickstart")``."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["moesim", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def moesim_json(moesim):
    """Run a command with ``--json`` and return what it printed."""

    def run(*arguments):
        code, out, err = moesim(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return run
