"""Run the scenario of a published figure and keep its outcome.

Equal scenarios run once. Outcomes stay in a folder, one small file each, named by a digest of the scenario, the code
and the files that it names, so that an interrupted validation goes on where it stopped and never reads a stale result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from moesim.errors import Infeasible, MoesimError
from moesim.study.entries.runs.documents import document_of
from moesim.study.entries.runs.inference_outcome import load_outcome, step_outcome
from moesim.study.entries.runs.outcome import Outcome
from moesim.study.entries.runs.training_outcome import training_outcome
from moesim.study.results.inputs import Inputs


class Runner:
    """Runs documents, each once. cache: folder of outcomes, None for none."""

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._known: dict[str, Outcome | MoesimError] = {}

    def run(self, data: Mapping[str, object]) -> Outcome:
        """The outcome of a scenario's data. Raises Infeasible where it does not fit, or another MoesimError, as its own
        command would."""
        key = digest(data)
        if key not in self._known:
            self._known[key] = self._read(key) or self._simulate(data, key)
        found = self._known[key]
        if isinstance(found, MoesimError):
            raise found
        return found

    def _simulate(self, data: Mapping[str, object], key: str) -> Outcome | MoesimError:
        try:
            found: Outcome | MoesimError = simulate(data)
        except MoesimError as error:
            found = Infeasible(str(error)) if isinstance(error, Infeasible) else MoesimError(str(error))
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            partial = self._cache / f"published-{key}.partial"
            partial.write_text(json.dumps(_kept(found)), encoding="utf-8")
            os.replace(partial, self._cache / f"published-{key}.json")
        return found

    def _read(self, key: str) -> Outcome | MoesimError | None:
        if self._cache is None:
            return None
        try:
            found = json.loads((self._cache / f"published-{key}.json").read_text(encoding="utf-8"))
            if "error" in found:
                return (Infeasible if found["infeasible"] else MoesimError)(found["error"])
            return Outcome(**found)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _kept(found: Outcome | MoesimError) -> dict[str, object]:
    """What a file of the cache holds."""
    if isinstance(found, MoesimError):
        return {"error": str(found), "infeasible": isinstance(found, Infeasible)}
    return asdict(found)


def simulate(data: Mapping[str, object]) -> Outcome:
    """Run a scenario's data, whatever its kind. Raises InvalidInput, Infeasible."""
    plain = {key: value for key, value in data.items() if key != "expected"}
    if "load" in data:
        return load_outcome(plain)
    if data.get("workload", {}).get("kind") == "training":
        return training_outcome(plain)
    return step_outcome(plain)


def digest(data: Mapping[str, object]) -> str:
    """What an outcome depends on, as 20 hexadecimal digits: the data, the code, and every file that they name in turn
    (profiles and those they are like, models, traces)."""
    plain = {key: value for key, value in data.items() if key not in ("expected", "description")}
    return hashlib.sha256(f"{_inputs().content_hash(document_of(plain))}|{_readers()}".encode()).hexdigest()[:20]


@lru_cache(maxsize=1)
def _inputs() -> Inputs:
    return Inputs()


@lru_cache(maxsize=1)
def _readers() -> str:
    """Digest of how outcomes are read off what was simulated; how entries are read makes no difference to them."""
    files = ("outcome.py", "inference_outcome.py", "training_outcome.py")
    return hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in files)).hexdigest()
