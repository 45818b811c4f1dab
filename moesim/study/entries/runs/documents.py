"""Data of a scenario as the document that the loader of scenario files makes, and back."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from moesim.spec.reading.loading import Document, parse


def document_of(data: Mapping[str, object], name: str = "published") -> Document:
    """The document of a scenario's data, as if it had been read from a file."""
    return parse(text_of(data), f"{name}.yaml")


def text_of(data: Mapping[str, object]) -> str:
    """The data as YAML, keys in their order, small mappings on one line."""
    lines = []
    for key, value in data.items():
        nested = isinstance(value, (dict, list))
        text = yaml.safe_dump({key: value}, sort_keys=False, width=118, default_flow_style=None if nested else False)
        if nested:
            inline = yaml.safe_dump(value, sort_keys=False, width=10_000, default_flow_style=True).strip()
            if len(key) + 2 + len(inline) <= 118:
                text = f"{key}: {inline}\n"
        lines.append(text)
    return "".join(lines)
