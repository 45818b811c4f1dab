"""How the file of a scenario of any kind is found, read and changed from the command line."""

from __future__ import annotations

from collections.abc import Iterable

from moesim.errors import InvalidInput
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, parse, read


def read_scenario(name_or_path: str, changes: Iterable[str] = (), beside: str | None = None) -> Document:
    """The document of a shipped scenario or a file. changes: ``field=value`` texts, values in YAML. beside: the file
    that names it."""
    return with_changes(read(library.find("scenario", name_or_path, beside=beside)), changes)


def with_changes(document: Document, changes: Iterable[str], example: str = "workload.context=8192") -> Document:
    """The document with fields replaced by ``field=value`` texts. example: of such a text, for the error."""
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals or not field.strip():
            raise InvalidInput(f"--set {change}: write FIELD=VALUE, e.g. {example}")
        document = document.with_value(field.strip(), plain_value(text))
    return document


def plain_value(text: str) -> object:
    """One YAML value, as the command line gives it."""
    return parse(f"value: {text}", "--set").data["value"]
