"""What a checked file leaves to defaults."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel


def defaults(checked: BaseModel, inside: str = "") -> Iterator[tuple[str, object]]:
    """(dotted field, value) of every plain field that the file does not set, empty ones left out."""
    for name in type(checked).model_fields:
        value, field = getattr(checked, name), f"{inside}{name}"
        if isinstance(value, BaseModel):
            yield from defaults(value, f"{field}.")
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            for number, item in enumerate(value):
                yield from defaults(item, f"{field}.{number}.")
        elif name not in checked.model_fields_set and value not in (None, "", (), {}):
            yield field, value
