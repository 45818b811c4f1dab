"""``moesim validate`` of published figures: a YAML list of them, or a folder of scenarios that expect one each."""

from __future__ import annotations

from pathlib import Path

from moesim.cli.output import Progress, print_json, print_statistics, print_table, records, save_table, say
from moesim.cli.validate_serving import cache_folder

_NUMBERS = ("entries", "predicted", "median_ape", "p90_ape", "bias", "spearman", "coverage")


def validate_published(path: Path, *, out: Path | None, json: bool, jobs: int = 1) -> None:
    """Predict every entry of a list of published figures, write the table to `out`, say how good predictions are.

    Resumable: outcomes of finished scenarios stay in the user's cache folder.
    """
    from moesim.study.entries.fitting.score import statistics
    from moesim.study.entries.prediction.predict import CONVERTED_KINDS, converted_share, predict_table
    from moesim.study.entries.reading.entry import read_entries
    from moesim.study.entries.runs.runner import Runner

    entries, table = read_entries(path)
    show = Progress()
    runner = Runner(cache_folder())
    predicted = predict_table(
        entries, table, runner, progress=lambda done, total: show("entries", done, total), jobs=jobs
    )
    if out is not None:
        save_table(predicted, out)
    judged = predicted[predicted["kind"].isin(CONVERTED_KINDS)]
    errors = statistics(judged)
    share = converted_share(predicted)
    if json:
        data = {"schema_version": 1, "file": str(path), "entries": len(predicted), "converted_share": round(share, 4)}
        print_json(data | {"errors": records(errors)})
        return
    say(str(path))
    print_statistics(errors, _NUMBERS, _number, _short)
    say()
    say(f"converted {share:.1%} of {len(judged)} inference and training entries ({len(predicted)} entries in all)")


def validate_scenarios(folder: Path, *, out: Path | None, json: bool) -> None:
    """Run every scenario of a folder and print its error against the figure that it expects, worst first."""
    from moesim.study.entries.fitting.score import statistics
    from moesim.study.entries.prediction.files import validate_folder
    from moesim.study.entries.runs.runner import Runner

    show = Progress()
    table = validate_folder(folder, Runner(cache_folder()), progress=lambda done, total: show("scenarios", done, total))
    if out is not None:
        save_table(table, out)
    errors = statistics(table, by=("kind",))
    if json:
        print_json({"schema_version": 1, "scenarios": records(table), "errors": records(errors)})
        return
    rows = (
        (
            row["scenario"],
            f"{row['value']:.5g}",
            _number("value", row["predicted"]),
            row["unit"],
            _number("bias", row["error"]),
            row["reason"] or row["assumed"],
        )
        for row in table.to_dict("records")
    )
    print_table(rows, header=("scenario", "published", "predicted", "unit", "error", "assumed"), right=(1, 2, 4))
    say()
    print_statistics(errors, _NUMBERS, _number, _short)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _number(name: str, value: float) -> str:
    if value != value:
        return ""
    if name == "value":
        return f"{value:.5g}"
    if name in ("entries", "predicted"):
        return f"{int(value)}"
    return f"{value:.2f}" if name == "spearman" else f"{value:+.1%}" if name == "bias" else f"{value:.1%}"
