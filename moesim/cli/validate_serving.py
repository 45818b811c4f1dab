"""``moesim validate`` of a table of serving runs, and ``moesim fit-serving``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Progress, note, print_json, print_statistics, print_table, records, save_table, say
from moesim.files import write_text

_NUMBERS = tuple(
    f"{name}_{part}" for name in ("tpot", "ttft") for part in ("mape", "median", "p90", "bias", "coverage")
)


def validate_serving(path: Path, *, out: Path | None, by: tuple[str, ...], json: bool) -> None:
    """Predict the rows of a serving table, write them to `out`, and say how good they are. Resumable: finished
    configurations stay in the user's cache folder."""
    from moesim.study.validation.serving.predict import predict_serving
    from moesim.study.validation.serving.scores import chosen_by_prediction, serving_statistics
    from moesim.study.validation.tables import read_table

    show = Progress()
    predicted = predict_serving(
        read_table(path), cache=cache_folder(), progress=lambda done, total: show("rows", done, total)
    )
    if out is not None:
        save_table(predicted, out)
    errors = serving_statistics(predicted, by or ("hardware", "software"))
    choices = chosen_by_prediction(predicted) if {"ttft_s", "tpot_s"} <= set(predicted) else None
    if json:
        data = {"schema_version": 1, "file": str(path), "errors": records(errors)}
        print_json(data | ({} if choices is None else {"choices": records(choices)}))
        return
    say(str(path))
    print_statistics(errors, ("rows", "refused", *_NUMBERS), _number)
    if choices is not None and len(choices):
        share = choices["share_of_best"]
        say()
        say(
            f"choosing by prediction: {len(choices)} choices reach {share.median():.1%} of the best measured "
            f"throughput a GPU in the median, {share.quantile(0.1):.1%} in the worst tenth"
        )


def cache_folder() -> Path:
    """Where predictions of finished configurations stay: $XDG_CACHE_HOME/moesim, by default ~/.cache/moesim."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moesim"


def fit_serving(
    table: Annotated[Path, typer.Argument(help="Measured serving runs: Parquet or CSV.")],
    out: Annotated[Path | None, typer.Option("--out", help="File of constants; by default the one that ships.")] = None,
    source: Annotated[
        str, typer.Option("--source", help="Where the runs come from.")
    ] = "InferenceX and other published runs",
) -> None:
    """Fit the constants of serving stacks, judge them on unseen curves, models and hardware, and keep them."""
    from datetime import date

    from moesim.spec.serving.constants import SHIPPED, fitted_text
    from moesim.study.validation.serving.judge import fit_serving as fit
    from moesim.study.validation.tables import read_table

    show = Progress()
    found, _, _ = fit(
        read_table(table),
        source=source,
        date=date.today().isoformat(),
        progress=lambda done, total: show("runs", done, total),
    )
    target = out or SHIPPED
    write_text(target, fitted_text(found))
    note(f"wrote {target}")
    rows = ((name, *(f"{value:.1%}" for value in errors.values())) for name, errors in found.errors.items())
    print_table(rows, header=("runs", *next(iter(found.errors.values()))), right=range(1, 8))


def _number(name: str, value: float) -> str:
    if value != value:
        return ""
    return (
        f"{value:.0f}" if name in ("rows", "refused") else f"{value:+.1%}" if name.endswith("bias") else f"{value:.1%}"
    )
