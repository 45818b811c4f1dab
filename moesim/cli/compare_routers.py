"""``moesim compare-routers``: train every router alike, and cost what each of them chose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.options import JsonOption
from moesim.cli.output import Progress, note, print_json, print_table, records


def compare_routers(
    routers: Annotated[list[str] | None, typer.Argument(help="Routers to compare; all by default.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Training steps of each, about a CPU-minute for 200.")] = 200,
    out: Annotated[Path, typer.Option("--out", help="Folder for captures, table and figure; a rerun resumes.")] = Path(
        "out/routers"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and batches.")] = 0,
    json: JsonOption = False,
) -> None:
    """Train each router on the same text and budget, capture it, and simulate it on H100, GB200 NVL72 and TPU v5p."""
    from moesim.cli.capture import need_torch

    need_torch()
    from moesim.lab.compare import train_routers
    from moesim.report.figures.routers import draw_router_comparison
    from moesim.routing.router_names import ROUTER_NAMES
    from moesim.study.comparison.compare_routers import compare_routers as compare

    progress = Progress()
    out.mkdir(parents=True, exist_ok=True)
    runs = train_routers(tuple(routers or ROUTER_NAMES), steps=steps, rng_seed=seed, folder=out, progress=progress)
    table = compare(runs, progress=progress)
    draw_router_comparison(table, out / "routers.png")
    note(f"wrote {out / 'routers.png'}")
    if json:
        print_json({"schema_version": 1, "routers": records(table)})
        return
    clusters = [name.removesuffix("_step_s") for name in table.columns if name.endswith("_step_s")]
    header = ("router", "loss", "hottest/mean", "Gini", "dropped", "choices", *clusters)
    rows = (
        (
            row["router"],
            f"{row['held_out_loss']:.3f}",
            f"{row['max_over_mean']:.2f}",
            f"{row['gini']:.3f}",
            f"{row['dropped']:.1%}",
            f"{row['choices']:.2f}",
            *(f"{row[f'{cluster}_step_s'] * 1e3:.2f} ms" for cluster in clusters),
        )
        for row in table.to_dict("records")
    )
    print_table(rows, header, right=range(1, len(header)))
