"""Recorded requests: CSV or JSON lines with arrival, input and output length, in the layouts of the public traces.

| layout | columns | published as |
|---|---|---|
| plain | arrival_s, input_len, output_len [, priority] | what `write_requests` makes |
| azure | TIMESTAMP (date and time), ContextTokens, GeneratedTokens | Azure LLM inference traces 2023, 2024 |
| burstgpt | Timestamp (s), Request tokens, Response tokens | BurstGPT (failed ones, without response, are dropped) |
| mooncake | timestamp (ms), input_length, output_length, hash_ids (blocks of 512 tokens) | Mooncake, JSON lines |

The layout is told by its columns. Times are shifted so that the first request comes at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.serving.requests import Requests, open_loop

MOONCAKE_BLOCK = 512  # tokens of one of its hash_ids (the trace's README)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a recorded trace. seconds: of one unit of its clock, None for dates. blocks: tokens of a hashed block
    named in the column `prefix`."""

    arrival: str
    input_len: str
    output_len: str
    seconds: float | None = 1.0
    prefix: str = ""
    blocks: int = 0


LAYOUTS = {
    "plain": Layout("arrival_s", "input_len", "output_len"),
    "azure": Layout("TIMESTAMP", "ContextTokens", "GeneratedTokens", seconds=None),
    "burstgpt": Layout("Timestamp", "Request tokens", "Response tokens"),
    "mooncake": Layout("timestamp", "input_length", "output_length", 1e-3, "hash_ids", MOONCAKE_BLOCK),
}


def read_requests(path: str | Path, *, most: int | None = None, speed: float = 1.0) -> Requests:
    """Requests of a recorded trace. most: first so many. speed: how much faster than recorded they come.

    Raises InvalidInput with the file, the line and the column of the first mistake of each kind.
    """
    path = Path(path)
    table = _read(path)
    name, layout = _layout(table, path)
    if name == "burstgpt":
        table = table[table[layout.output_len] != 0]
    arrival = _seconds(table, layout, path) / speed
    lengths = [_lengths(table, column, path) for column in (layout.input_len, layout.output_len)]
    _check(arrival, lengths, layout, table, path)
    part = slice(None, most)
    more = {}
    if layout.prefix and layout.prefix in table:
        more = {"prefix": tuple(map(tuple, table[layout.prefix].iloc[part])), "block_tokens": layout.blocks}
    if "priority" in table:
        more["priority"] = table["priority"].to_numpy(np.int64)[part]
    return open_loop((arrival - arrival[0])[part], lengths[0][part], lengths[1][part], **more)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix in (".jsonl", ".json"):
            table = pd.read_json(path, lines=True)
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
        else:
            raise InvalidInput(Problem("write recorded requests as .csv or .jsonl", file=str(path)))
    except (OSError, ValueError) as error:
        raise InvalidInput(Problem(f"cannot be read: {error}", file=str(path))) from None
    if table.empty:
        raise InvalidInput(Problem("holds no request", file=str(path)))
    return table


def _layout(table: pd.DataFrame, path: Path) -> tuple[str, Layout]:
    for name, layout in LAYOUTS.items():
        if {layout.arrival, layout.input_len, layout.output_len} <= set(table.columns):
            return name, layout
    known = "; ".join(f"{n}: {v.arrival}, {v.input_len}, {v.output_len}" for n, v in LAYOUTS.items())
    raise InvalidInput(Problem(f"its columns ({', '.join(table.columns)}) are none of: {known}", file=str(path)))


def _seconds(table: pd.DataFrame, layout: Layout, path: Path) -> np.ndarray:
    column = table[layout.arrival]
    if layout.seconds is None:
        times = pd.to_datetime(column, errors="coerce", format="mixed", utc=True)
        stamps = times.dt.as_unit("ns").astype("int64").to_numpy() / 1e9
        return np.where(times.isna(), np.nan, stamps)
    return pd.to_numeric(column, errors="coerce").to_numpy(float) * layout.seconds


def _lengths(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    return pd.to_numeric(table[column], errors="coerce").fillna(0).to_numpy(np.int64)


def _check(arrival: np.ndarray, lengths: list[np.ndarray], layout: Layout, table: pd.DataFrame, path: Path) -> None:
    problems = []
    first_line = 1 if path.suffix != ".csv" else 2

    def tell(bad: np.ndarray, column: str, rule: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            line = int(table.index[row]) + first_line
            problems.append(Problem(f"{table[column].iloc[row]} {rule}", column, str(path), line))

    tell(np.isnan(arrival), layout.arrival, "is no time")
    if layout.seconds is not None:
        tell(arrival < 0, layout.arrival, "is negative")
    tell(np.diff(arrival, prepend=arrival[0]) < 0, layout.arrival, "comes before the line above; sort by arrival")
    for column, values in zip((layout.input_len, layout.output_len), lengths, strict=True):
        tell(values < 1, column, "is no number of tokens from 1 on")
    if problems:
        raise InvalidInput(problems)
