"""What can go wrong, and the exit code each thing has. Only the command line prints or exits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class MoesimError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 70


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the input: where it stands, what is wrong and what to write instead."""

    message: str
    field: str = ""
    file: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part not in ("", None))
        return ": ".join(part for part in (place, self.field, self.message) if part)


class InvalidInput(MoesimError):
    """The user's files or options are wrong. Carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem]):
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Infeasible(MoesimError):
    """The scenario is well-formed but cannot run, e.g. it does not fit in HBM. Says by how much."""

    exit_code = 3
