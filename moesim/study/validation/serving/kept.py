"""What a run was predicted to give, and files that keep it, so that an interrupted validation goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim.errors import MoesimError
from moesim.files import write_text
from moesim.spec.reading import library
from moesim.spec.serving.constants import Fitted
from moesim.study.results.code import code_hash
from moesim.study.validation.serving.rows import Configuration, ServingRow


@dataclass(frozen=True, slots=True)
class Prediction:
    """Mean TTFT and TPOT over the requests of a run, and how many of them the server had to refuse."""

    ttft_s: float
    tpot_s: float
    rejected: int


Found = tuple[Prediction | None, str, str]  # prediction, reason where there is none, note


class Kept:
    """Predictions of one configuration's runs, in a file whose name changes with everything that they depend on.

    folder: None to keep nothing.
    """

    def __init__(self, folder: Path | None, configuration: Configuration, fitted: Fitted, sigma: float):
        about = (code_hash(), repr(configuration), repr(fitted.stacks), sigma, _profile_text(configuration.hardware))
        name = f"serving-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.json"
        self._path = None if folder is None else folder / name

    def all_of(self, rows: Sequence[ServingRow]) -> list[Found] | None:
        """What is kept of the runs; None unless it is there for every one."""
        kept = self._read()
        if not all(row_key(row) in kept for row in rows):
            return None
        return [_unpacked(kept[row_key(row)]) for row in rows]

    def add(self, found: Mapping[str, Found]) -> None:
        """Keep more, by `row_key`."""
        if self._path is None:
            return
        plain = {
            key: [prediction and [prediction.ttft_s, prediction.tpot_s, prediction.rejected], why, remark]
            for key, (prediction, why, remark) in found.items()
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(self._read() | plain))

    def _read(self) -> dict[str, list]:
        try:
            return {} if self._path is None else json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def row_key(row: ServingRow) -> str:
    """Equal for runs of one configuration that are equal."""
    return f"{row.input_len} {row.output_len} {row.concurrency} {row.client} {row.age:.3f}"


def _unpacked(kept: list) -> Found:
    numbers, why, remark = kept
    return (Prediction(*numbers) if numbers else None), why, remark


def _profile_text(name: str) -> str:
    try:
        return library.find("hardware", name).read_text(encoding="utf-8")
    except (MoesimError, OSError):
        return ""
