"""The command line: the only place that prints or exits. One command a file; heavy imports happen inside commands."""

from moesim.cli.app import main

__all__ = ["main"]
