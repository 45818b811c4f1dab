"""Baseline files: reading them, adding to them, writing them anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

import moesim
from moesim.errors import InvalidInput, Problem
from moesim.files import write_text
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, read
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.baseline_file import LAYOUT
from moesim.study.scenarios import kind_of
from moesim.study.validation.kernels.validate import sample_tables

_HEADER = (
    "# What `moesim check` compares with. `moesim check FILE --update` writes it anew: notes stay, comments do not.\n"
)


def shipped_baseline() -> Path:
    """The baseline of moesim itself, over the shipped scenarios and measurements."""
    return Path(moesim.__file__).parent / "data" / "baseline.yaml"


def read_baseline(path: str | Path) -> Document:
    """The document of a baseline file. Raises InvalidInput where it is of another layout, and says how to remake it."""
    if not Path(path).exists():
        how = f"make one: moesim check {path} --add SCENARIO"
        raise InvalidInput(Problem(f"there is no such baseline; {how}", file=str(path)))
    document = read(path)
    layout = document.data.get("schema_version", LAYOUT)
    if layout != LAYOUT:
        runs = document.data.get("runs")
        entries = runs.values() if isinstance(runs, dict) else ()
        names = [str(run["scenario"]) for run in entries if isinstance(run, dict) and "scenario" in run]
        remake = " ".join(f"--add {name}" for name in dict.fromkeys(names)) or "--add SCENARIO"
        told = f"this baseline has layout {layout}, moesim {moesim.__version__} reads {LAYOUT}"
        how = f"move the file away and make it anew: moesim check {path} {remake}"
        raise InvalidInput(document.problem("schema_version", f"{told}; {how}"))
    return document


def new_baseline(path: str | Path) -> Document:
    """An empty baseline that is to stand at `path`."""
    data = {"schema_version": LAYOUT, "moesim_version": moesim.__version__, "tolerance": "2 %"}
    return Document(str(path), data, {}, {})


def add(document: Document, names: Sequence[str]) -> Document:
    """The baseline with entries for scenarios, and for measured tables (files, or the kinds that ship), without values.

    An entry that is there already stays as it is. Raises InvalidInput for names of neither.
    """
    samples = {path.stem: path for path in sample_tables()}
    wrong = []
    for name in names:
        label = Path(name).name.rpartition(".")[0] if Path(name).suffix else name
        try:
            if name in samples or Path(name).suffix in (".parquet", ".csv"):
                part, entry = "tables", {"table": name}
            else:
                kind = kind_of(read_scenario(str(library.find("scenario", name, beside=document.file))))
                part, entry = "runs", {"scenario": name, "status": "ok", "metrics": dict.fromkeys(kind.headline)}
        except InvalidInput as error:
            wrong += [Problem(problem.message, "--add") for problem in error.problems]
            continue
        there = document.data.get(part) or {}
        document = document.with_value(part, there | {label: there.get(label, entry)})
    if wrong:
        raise InvalidInput(wrong)
    return document


def write_baseline(data: dict, path: str | Path) -> None:
    """Put a baseline in place, whole: JSON for a name that ends so, else YAML."""
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    else:
        text = _HEADER + yaml.dump(_laid_out(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    write_text(path, text)


class _OneLine(dict):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Knows `_OneLine`."""


_Dumper.add_representer(
    _OneLine,
    lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=True),
)


def _laid_out(data: dict) -> dict:
    """Compared figures have a line each, so that a change of one is a changed line; the rest of a run is kept short."""
    runs = {
        name: {
            key: _OneLine(value) if key in ("set", "breakdown_s", "tolerances") else value for key, value in run.items()
        }
        for name, run in data.get("runs", {}).items()
    }
    return {key: runs if key == "runs" else value for key, value in data.items()}
