"""Telling all that is wrong with a file at once."""

from __future__ import annotations

from collections.abc import Callable

from moesim.errors import InvalidInput, Problem
from moesim.spec.reading.loading import Document


class Problems:
    """Collects what is wrong in independent parts of a document, so that all of it is told at once."""

    def __init__(self, document: Document):
        self._document = document
        self._found: list[Problem] = []

    def attempt(self, build: Callable, under: str) -> object | None:
        """What `build` makes, or None after noting its problems, whose fields lie below `under`."""
        try:
            return build()
        except InvalidInput as error:
            self._found += self._document.locate(error, under).problems
            return None

    def now(self, build: Callable, under: str) -> object:
        """As `attempt`, raising at once."""
        made = self.attempt(build, under)
        self.raise_any()
        return made

    def raise_any(self) -> None:
        """Raise what was found, if anything."""
        if self._found:
            raise InvalidInput(self._found)
