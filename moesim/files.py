"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes the place of `path` when the block ends well.

    A block that fails (a full disk, an interrupt) leaves what was there before, and nothing half-written. The name
    holds the process, so that two writers of one file do not meet.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """A `whole_file` of text in UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """A `whole_file` of a table, without its index: CSV where the name ends so, else Parquet."""
    with whole_file(path) as partial:
        if Path(path).suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial)
