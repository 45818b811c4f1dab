"""``moesim run``: simulate a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import (
    check_folder,
    check_html,
    note_written,
    print_heading,
    print_json,
    print_table,
    say,
    write_html,
)
from moesim.errors import InvalidInput


def run(
    scenario: Annotated[
        str, typer.Argument(help="Name of a shipped scenario, or a YAML file.", autocompletion=complete_scenario)
    ],
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures and the timeline.")] = None,
    html: HtmlOption = None,
    links: Annotated[
        bool, typer.Option("--links", help="Also write link use and traffic to --out; print hot links.")
    ] = False,
    change: Annotated[list[str] | None, set_option("Change a field, e.g. workload.context=8192.")] = None,
) -> None:
    """Simulate one step of a scenario and print what it takes and why."""
    from moesim.spec.step.scenario_file import read_scenario
    from moesim.spec.training.assembly import is_training
    from moesim.study.step.run import run_scenario

    if links and out is None:
        raise InvalidInput("--links needs --out DIR to write its pictures to")
    if out is not None:
        check_folder(out)  # before the work, so that a bad place costs nothing
    check_html(html)
    if links and is_training(read_scenario(scenario, change or ())):
        raise InvalidInput("--links shows inference steps; for training write moesim explain SCENARIO")
    result = run_scenario(scenario, changes=change or ())
    if "mfu" in result.metrics:
        _show_training(result, json, out, html)
        return
    written = []
    if out is not None:
        from moesim.report.step import write_link_report, write_step_report

        written = note_written(write_step_report(result, out) + (write_link_report(result, out) if links else []))
    if html is not None:
        from moesim.report.html.step import step_page

        write_html(step_page(result), html, written)
    if json:
        print_json(result.metrics)
    else:
        _print(result.metrics)
        if links:
            _print_links(result)


def _show_training(result, json: bool, out: Path | None, html: Path | None) -> None:
    from moesim.cli.training import print_training

    written = []
    if out is not None:
        from moesim.report.training import write_training_report

        written = note_written(write_training_report(result, out))
    if html is not None:
        from moesim.report.html.training import training_page

        write_html(training_page(result), html, written)
    if json:
        print_json(result.metrics)
    else:
        print_training(result.metrics)


def _print(metrics: dict) -> None:
    from moesim.units import format_bytes, format_seconds

    s = format_seconds
    print_heading(metrics)
    interval = f"({s(metrics['step_time_low_s'])} – {s(metrics['step_time_high_s'])}, 80 % interval)"
    say(f"step time     {s(metrics['step_time_s'])}  {interval}")
    if metrics["tpot_s"] is not None:
        say(f"TPOT          {s(metrics['tpot_s'])}")
    say(f"throughput    {metrics['tokens_per_s']:,.0f} tokens/s, {metrics['tokens_per_s_per_device']:,.0f} per device")
    say(f"bounds        {s(metrics['lower_bound_s'])} ≤ step ≤ {s(metrics['upper_bound_s'])}")
    waits = f"collectives wait {s(metrics['waiting_s'])} for late ranks and shared links"
    say(f"communication {s(metrics['exposed_communication_s'])} in which the mean rank computes nothing; {waits}")
    hbm = metrics["hbm"]
    parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in hbm["by_kind"].items() if size)
    say(f"HBM           {format_bytes(metrics['hbm_bytes'])} of {format_bytes(hbm['capacity'])} ({parts})")
    if hbm["largest_batch"] is not None:
        say(f"              fits up to {hbm['largest_batch']} sequences per data-parallel rank")
    _print_hot_spots(metrics)
    _print_routing(metrics)
    if "speculative" in metrics:
        _print_speculative(metrics["speculative"])
    if "offload" in metrics:
        from moesim.cli.offload import print_offload

        print_offload(metrics["offload"])
    say()
    total = metrics["step_time_s"]
    rows = [(kind, s(value), f"{value / total:.1%}") for kind, value in metrics["breakdown_s"].items()]
    print_table(rows, header=("operation (mean over ranks)", "time", "of step"), right=(1, 2))
    say()
    for name, text in metrics["provenance"].items():
        say(f"{name}: {text}")


def _print_routing(metrics: dict) -> None:
    from moesim.units import format_seconds

    if found := metrics.get("router"):
        kernels = f"{found['kernels_per_layer']} kernels a layer"
        say(f"router        {found['kind']}: {kernels}, {format_seconds(found['layer_s'])}")
        if found.get("hit_rate") is not None:
            right = f", {found['agreement']:.1%} of their choices right" if found["agreement"] is not None else ""
            say(f"              {found['hit_rate']:.1%} of tokens looked up on the later half of the trace{right}")
        if "miss_penalty_s" in found:
            say(f"              a layer whose tokens all miss takes {format_seconds(found['miss_penalty_s'])} longer")
    if found := metrics.get("dropped"):
        say(
            f"dropped       {found['share']:.1%} of choices, {found['worst_layer_share']:.1%} in MoE layer "
            f"{found['worst_layer']}; {found['tokens_without_experts']:.1%} of tokens found no expert"
        )


def _print_speculative(found: dict) -> None:
    from moesim.units import format_seconds

    drafted = f"{found['draft_tokens']} drafted in {format_seconds(found['draft_s'])}"
    say(
        f"speculative   {found['accepted_tokens']:.2f} tokens a sequence and step: {drafted}, checked in "
        f"{format_seconds(found['check_s'])}, each kept with {found['acceptance']:.0%}"
    )


def _print_links(result) -> None:
    from moesim.study.step.links import hottest_links, link_load

    deployment = result.assembly.deployment
    found = link_load(deployment, result.timeline, result.step.rounds)
    rows = [
        (
            row["from"],
            row["to"],
            row["links"],
            f"{row['utilisation']:.1%}",
            *(f"{row[f'{kind}_bytes'] / 1e6:,.1f}" for kind in found.kinds),
        )
        for row in hottest_links(deployment, found).to_dict("records")
    ]
    say()
    print_table(
        rows,
        header=("hottest links: from", "to", "links", "used", *(f"{kind} MB" for kind in found.kinds)),
        right=range(2, 9),
    )


def _print_hot_spots(metrics: dict) -> None:
    if rank := metrics["hottest_rank"]:
        say(
            f"hottest rank  {rank['rank']} computes {rank['over_mean']:.2f} × the mean over the step; "
            f"{rank['per_layer_over_mean']:.2f} × in the mean layer"
        )
    if expert := metrics["hottest_expert"]:
        say(
            f"hottest expert {expert['expert']} of MoE layer {expert['moe_layer']} gets {expert['over_mean']:.1f} × "
            f"the mean; {expert['per_layer_over_mean']:.1f} × in the mean layer"
        )
    if link := metrics["hottest_link"]:
        say(f"hottest link  {link['from']} → {link['to']}, {link['utilisation']:.0%} busy over the step")
