"""``moesim calibrate``: fit a profile's cost models to measured tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.options import JsonOption
from moesim.cli.output import Progress, note, print_json, print_table, records, say
from moesim.errors import InvalidInput


def calibrate(
    tables: Annotated[list[Path] | None, typer.Argument(help="Parquet or CSV tables of measured times.")] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Profile to fit, by name or file.")] = None,
    software: Annotated[str | None, typer.Option("--software", help="Only stacks whose name starts so.")] = None,
    source: Annotated[str, typer.Option("--source", help="Where the measurements come from; kept with the fit.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures of the residuals.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and report; leave the profile as it is.")] = False,
    measure: Annotated[
        Path | None, typer.Option("--measure", metavar="OUT.yaml", help="Measure this machine and write its profile.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="With --measure: cpu or cuda; the machine's best by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Fit cost models to measured tables and keep the fit in the hardware profile."""
    if measure is not None:
        from moesim.cli.local import measure_machine

        measure_machine(measure, device=device, json=json)
        return
    if not tables or hardware is None:
        raise InvalidInput("say what to fit: moesim calibrate TABLE… --hardware NAME, or --measure OUT.yaml")
    from moesim.spec.hardware.profile import load_profile
    from moesim.spec.reading import library
    from moesim.study.validation.kernels import calibrate as study
    from moesim.study.validation.tables import read_table

    path = library.find("hardware", hardware, field="hardware")
    profile = load_profile(path)
    read = {str(table): read_table(table) for table in tables}
    progress = Progress()
    found = study.calibrate(read, profile, load_profile, software=software, progress=lambda name: progress(name, 0, 1))
    if not dry_run:
        from datetime import date

        origin = source or ", ".join(table.name for table in tables)
        launch, today = study.launch_of(profile, found.fits), date.today().isoformat()
        block = study.calibration_block(profile.calibration, found.fits, source=origin, date=today, launch=launch)
        study.write_calibration(path, block, load_profile, launch)
        note(f"wrote the calibration block of {path}")
    for problem in found.skipped:
        note(f"skipped: {problem}")
    if out is not None:
        _draw(found, out)
    if json:
        print_json({"schema_version": 1, "hardware": profile.name, "kernels": records(found.summary)})
    else:
        _print(found.summary)


def _print(summary) -> None:
    header = ("family", "software", "kernel", "dtype", "points", "shapes", "before", "P90", "after", "P90", "held out")
    rows = (
        (
            row["family"],
            row.get("software", ""),
            row.get("kernel", ""),
            row.get("dtype", ""),
            row["points"],
            row["shapes"],
            *(f"{row[name]:.1%}" for name in ("before_median", "before_p90", "after_median", "after_p90")),
            "shapes" if row["held_out"] else "nothing",
        )
        for row in summary.fillna("").to_dict("records")
    )
    print_table(rows, header, right=range(4, 10))
    say()
    say("Errors are absolute percentages, median and P90; after: of shapes held out of the fit, if there are several.")


def _draw(found, folder: Path) -> None:
    from moesim.cost.table_kinds import FAMILIES
    from moesim.report.figures.validation import draw_predicted_against_measured, draw_residuals_by_size

    folder.mkdir(parents=True, exist_ok=True)
    for family, rows in found.rows.groupby("family"):
        scatter, residuals = folder / f"{family}.png", folder / f"{family}_residuals.png"
        held_out = rows["held_out_s"].notna().any()
        column, title = ("held_out_s", "held-out shapes") if held_out else ("after_s", "in sample")
        title = f"{family}, {title}"
        draw_predicted_against_measured(rows, scatter, predicted=column, by="software", title=title)
        draw_residuals_by_size(rows, FAMILIES[family].size, residuals, predicted=column, by="software", title=title)
        note(f"wrote {scatter}\nwrote {residuals}")
