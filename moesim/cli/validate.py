"""``moesim validate``: predictions beside measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import moesim
from moesim.cli.options import JsonOption
from moesim.cli.output import print_json, print_statistics, records, save_table, say
from moesim.cli.validate_published import validate_published, validate_scenarios
from moesim.cli.validate_serving import validate_serving
from moesim.errors import InvalidInput

# Columns by which a table of serving runs is known from one of kernels.
SERVING = {"input_len", "output_len", "concurrency"}
_NUMBERS = ("rows", "refused", "median_ape", "mape", "p90_ape", "bias", "rank_correlation", "coverage", "width")


def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Parquet or CSV tables, YAML lists of published figures, folders of scenarios; else a shipped sample."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the tables with predictions: a file, or a folder for several.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="COLUMN", help="Break errors down by a column.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Measure this machine, predict, run, compare.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="With --local: a profile measured before, instead of measuring now."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="With --local: cpu or cuda; the machine's best by default.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes for lists of published figures.")] = 2,
    json: JsonOption = False,
) -> None:
    """Predict the rows of measured tables and say how good the predictions are."""
    if local:
        from moesim.cli.local import LOCAL_FOLDER, validate_local

        validate_local(profile=profile, folder=out or LOCAL_FOLDER, device=device, json=json)
        return
    from moesim.spec.hardware.profile import load_profile
    from moesim.study.validation.kernels.validate import predict_table, statistics
    from moesim.study.validation.tables import read_table

    paths = list(files or sorted((Path(moesim.__file__).parent / "data" / "measured").glob("*.parquet")))
    if out is not None and len(paths) > 1 and out.suffix:
        raise InvalidInput(f"several tables need a folder, not a file: --out {out.with_suffix('')}")
    reports = []
    for path in paths:
        if path.is_dir():
            validate_scenarios(path, out=_target(path, paths, out), json=json)
            continue
        if path.suffix in (".yaml", ".yml"):
            validate_published(path, out=_target(path, paths, out), json=json, jobs=jobs)
            continue
        table = read_table(path)
        target = _target(path, paths, out)
        if set(table.columns) >= SERVING:
            validate_serving(path, out=target, by=tuple(by or ()), json=json)
            continue
        predicted = predict_table(table, load_profile)
        if target is not None:
            save_table(predicted, target)
        reports.append((path, statistics(predicted, by or ("hardware", "software"))))
    if json and reports:
        print_json(
            {"schema_version": 1, "tables": [{"file": str(p), "errors": records(table)} for p, table in reports]}
        )
        return
    for path, table in reports:
        say(str(path))
        print_statistics(table, _NUMBERS, _number)
        say()


def _target(path: Path, paths: list[Path], out: Path | None) -> Path | None:
    """Where the predictions of one of some tables go."""
    return None if out is None else out if len(paths) == 1 and out.suffix else out / f"{path.stem}.parquet"


def _number(name: str, value: float) -> str:
    if value != value:
        return ""
    if name in ("rows", "refused"):
        return f"{int(value)}"
    return f"{value:.2f}" if name in ("rank_correlation", "width") else f"{value:.1%}"
