"""The files that a scenario stands on, and a hash of everything that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from moesim.errors import InvalidInput
from moesim.spec.model.file import TWIN
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, read
from moesim.study.results.code import code_hash

_FILES = (".yaml", ".yml", ".json", ".safetensors", ".csv", ".jsonl", ".parquet")
# Keys whose values name what ships with moesim -> where it is found.
_SHELVES = {"model": "model", "hardware": "hardware", "like": "hardware", "trace": "trace"}


class Inputs:
    """Finds the files that scenarios name, and those that profiles and models name in turn. Reads each only once."""

    def __init__(self) -> None:
        self._named: dict[Path, tuple[Path, ...]] = {}
        self._digests: dict[Path, str] = {}

    def files(self, document: Document) -> tuple[Path, ...]:
        """What the document names, directly or through another file, without the document itself."""
        found: dict[Path, None] = {}
        waiting = list(_named(document.data, document.file))
        while waiting:
            path = waiting.pop(0)
            if path not in found:
                found[path] = None
                waiting += self._inside(path)
        return tuple(found)

    def content_hash(self, document: Document) -> str:
        """16 hexadecimal digits of the scenario's data, the code of moesim, and the content of `files`."""
        files = [self._digest(path) for path in self.files(document)]
        whole = {"data": document.data, "moesim": code_hash(), "files": files}
        canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _inside(self, path: Path) -> tuple[Path, ...]:
        if path not in self._named:
            self._named[path] = ()
            if path.suffix in (".yaml", ".yml"):
                with suppress(InvalidInput):  # whoever runs the scenario says what is wrong with it
                    self._named[path] = tuple(_named(read(path).data, str(path)))
        return self._named[path]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]


def _named(data: object, beside: str, key: str = "") -> Iterator[Path]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _named(value, beside, name)
    elif isinstance(data, list):
        for value in data:
            yield from _named(value, beside, key)
    elif isinstance(data, str) and (data.endswith(_FILES) or key in _SHELVES):
        try:
            found = library.find(_SHELVES.get(key, "scenario"), data.removesuffix(TWIN), beside=beside)
        except InvalidInput:
            return
        if found.is_file():
            yield found
