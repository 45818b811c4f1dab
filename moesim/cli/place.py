"""``moesim place``: compare placements of experts and sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import (
    Progress,
    check_folder,
    check_html,
    note,
    note_written,
    print_json,
    print_table,
    say,
    write_html,
)
from moesim.errors import InvalidInput


def place(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped scenario of one step, or a YAML file.", autocompletion=complete_scenario
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="A policy, several with commas, or '{kind: eplb, replica_choice: nearest}'."),
    ] = None,
    redundant: Annotated[
        int | None, typer.Option("--redundant", help="Expert slots of a layer beyond one for each expert.")
    ] = None,
    learn_share: Annotated[
        float, typer.Option("--learn-share", help="Share of the trace, from its start, to learn on.")
    ] = 0.5,
    learn: Annotated[
        str | None, typer.Option("--learn", help="Learn on this label, capture or load table instead.")
    ] = None,
    judge_on: Annotated[
        list[str] | None, typer.Option("--judge-on", help="Judge on this label, capture or load table too.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Policy in force before; weights move from there.")
    ] = "contiguous",
    every: Annotated[int, typer.Option("--every", help="Steps between two re-balancings.")] = 1000,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for heat maps and tables.")] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
    change: Annotated[list[str] | None, set_option("Change a field of the scenario.")] = None,
) -> None:
    """Learn placements of experts on one part of a trace, judge them on another: step time, hot spots, moving costs."""
    from moesim.study.placing.place import place as study_of
    from moesim.study.placing.place import place_json

    if out is not None:
        check_folder(out)
    check_html(html)
    study = study_of(
        scenario,
        change or (),
        policies=_policies(policy or ()),
        redundant=redundant,
        learn_share=learn_share,
        learn=learn,
        judge_on=judge_on or (),
        base=base,
        every=every,
        progress=Progress(),
    )
    written = []
    if out is not None:
        from moesim.report.figures.placement import write_placement_report

        written = note_written(write_placement_report(study, out))
    if html is not None:
        from moesim.report.html.placement import placement_page

        write_html(placement_page(study), html, written)
    if json:
        print_json(place_json(study))
    else:
        _print(study)


def _policies(options: list[str]) -> list[str | dict]:
    """Names, and mappings in YAML."""
    from moesim.spec.step.scenario_file import plain_value

    policies: list[str | dict] = []
    for option in options:
        if option.lstrip().startswith("{"):
            value = plain_value(option)
            if not isinstance(value, dict):
                raise InvalidInput(f"--policy {option}: write '{{kind: NAME, KEY: VALUE}}'")
            policies.append(value)
        else:
            policies += [name.strip() for name in option.split(",") if name.strip()]
    return policies


def _print(study) -> None:
    from moesim.units import format_bytes, format_seconds

    table, parts = study.table, study.workloads
    kind = ", synthetic" if parts.judged.trace.synthetic else ""
    say(f"learned on: {parts.learned.name}; judged on: {parts.judged.name}{kind}")
    other = ["other step", "other hottest"] if parts.others else []
    if parts.others:
        say(f"other: {parts.others[0].name}")
    say()
    header = (
        "policy",
        "slots",
        "step",
        "hottest/mean",
        "least",
        "cross-node",
        "HBM",
        "move",
        "break-even",
        "amortised",
    )
    rows = []
    for row in table.to_dict("records"):
        paid = row["break_even_steps"]
        cells = [
            row["name"],
            row["slots_per_rank"],
            format_seconds(row["step_time_s"]),
            f"{row['hottest_rank_over_mean']:.3f}",
            f"{row['least_hottest_over_mean']:.3f}",
            format_bytes(row["cross_node_bytes"]),
            format_bytes(row["hbm_bytes"]),
            f"{format_bytes(row['migration_bytes'])} {format_seconds(row['migration_s'])}",
            f"{paid:,.1f} steps" if paid == paid else "",
            format_seconds(row["amortised_step_time_s"]),
        ]
        if other:
            cells += [format_seconds(row["other_step_time_s"]), f"{row['other_hottest_rank_over_mean']:.3f}"]
        rows.append(cells)
    print_table(rows, (*header, *other), right=range(1, len(header) + len(other)))
    say()
    best = table.loc[table["amortised_step_time_s"].idxmin()]
    first = table.iloc[0]
    gain = first["amortised_step_time_s"] / best["amortised_step_time_s"] - 1
    say(f"fastest: {best['name']}, {gain:.1%} over {first['name']}, re-balanced every {study.every:,} steps")
    say(f"         its ranks stay {best['gap_to_bound']:.1%} above the proven bound on what it learned from")
    if best["hottest_link"]:
        say(f"         hottest link {best['hottest_link']}, {best['hottest_link_utilisation']:.0%} busy")
    for name, reason in study.skipped.items():
        note(f"left out {name}: {reason}")
