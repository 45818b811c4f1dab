"""``moesim resilience``: a training run over weeks, or a service through failures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.output import Progress, check_folder, note, print_json, print_table, say


def resilience(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario with failures, or a YAML file.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for pictures and finished seeds; the same again goes on.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. checkpoint.interval=daly."),
    ] = None,
) -> None:
    """Simulate weeks of a job with failures: goodput, availability, lost device-hours; what checkpoints cost."""
    from moesim.study.training_runs import simulate_runs

    if out is not None:
        check_folder(out)
    progress = Progress()
    result = simulate_runs(
        scenario, change or (), keep=out, progress=lambda done, total: progress("seeds", done, total)
    )
    if out is not None:
        from moesim.report.resilience import write_resilience_report

        for path in write_resilience_report(result, out):
            note(f"wrote {path}")
    if json:
        print_json(result.metrics)
    else:
        _print(result.metrics, result.curve)


def _print(metrics: dict, curve) -> None:
    from moesim.units import format_bytes

    step, checkpoint = metrics["step"], metrics["checkpoint"]
    say(f"{metrics['scenario']}: {metrics['description'].strip()}")
    say()
    say(f"step          {step['source']}; {step['devices']:,} devices, {step['tokens']:,} tokens")
    happened = ", ".join(f"{count:.1f} × {name}" for name, count in metrics["failures"].items()) or "none"
    say(f"failures      {happened} a run; the job is stopped every {_hours(metrics['mtbf_s'])}")
    untouched = checkpoint["experts_touched"]
    part = f" ({untouched:.1%} of experts touched)" if untouched is not None else ""
    say(
        f"checkpoint    {format_bytes(checkpoint['bytes'])}{part} every {_hours(checkpoint['interval_s'])} of work: "
        f"stops {_hours(checkpoint['pause_s'])}, safe after {_hours(checkpoint['write_s'])}, loads in "
        f"{_hours(checkpoint['load_s'])}"
    )
    if checkpoint["daly_s"] is not None:
        say(f"              Young {_hours(checkpoint['young_s'])}, Daly {_hours(checkpoint['daly_s'])}")
    say(f"goodput       {_percent(metrics['goodput'])}")
    if metrics["goodput_by_daly"] is not None:
        say(f"              {metrics['goodput_by_daly']:.2%} by Daly's formula (spares at hand, no stragglers)")
    say(f"availability  {_percent(metrics['availability'])}")
    if metrics["wall_s"]:
        wall = metrics["wall_s"]
        say(f"wall time     {_hours(wall['mean'])} ({_hours(wall['p10'])} – {_hours(wall['p90'])})")
    lost = metrics["lost_device_hours"]
    say(f"lost          {lost['mean']:,.0f} device-hours ({lost['p10']:,.0f} – {lost['p90']:,.0f})")
    if metrics["dropped_share"]:
        say(f"dropped       {metrics['dropped_share']:.3%} of token-expert pairs")
    say()
    rows = [(state, f"{share:.2%}") for state, share in metrics["spent_share"].items()]
    print_table(rows, header=("wall time went to", "share"), right=(1,))
    if len(curve):
        say()
        rows = [(_hours(row.interval_s), f"{row.goodput:.2%}") for row in curve.itertuples()]
        print_table(rows, header=("interval", "goodput"), right=(0, 1))
    for reason in metrics["stopped"]:
        say(f"stopped: {reason}")
    if not metrics["complete"]:
        say(f"interrupted: these are {metrics['seeds']} seeds; with --out the same command goes on")


def _percent(spread: dict) -> str:
    return f"{spread['mean']:.2%} ({spread['p10']:.2%} – {spread['p90']:.2%}, 80 % of runs)"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.3g} s"
