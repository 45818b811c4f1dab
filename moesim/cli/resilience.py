"""``moesim resilience``: a training run over weeks, or a service through failures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import Progress, check_folder, check_html, note_written, print_json, print_table, say, write_html
from moesim.units import format_long


def resilience(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped scenario with failures, or a YAML file.", autocompletion=complete_scenario
        ),
    ],
    json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for pictures and finished seeds; the same again goes on.")
    ] = None,
    html: HtmlOption = None,
    change: Annotated[list[str] | None, set_option("Change a field, e.g. checkpoint.interval=daly.")] = None,
) -> None:
    """Simulate weeks of a training run or a service with failures: goodput, availability, what each failure costs."""
    from moesim.spec.step.scenario_file import read_scenario

    if out is not None:
        check_folder(out)
    check_html(html)
    document = read_scenario(scenario, change or ())
    show = _service if "serving" in document.data else _training
    show(document, json, out, html)


def _training(document, json: bool, out: Path | None, html: Path | None) -> None:
    from moesim.study.reliability.training_runs import runs_of

    progress = Progress()
    result = runs_of(document, keep=out, progress=lambda done, total: progress("seeds", done, total))
    written = []
    if out is not None:
        from moesim.report.resilience import write_resilience_report

        written = note_written(write_resilience_report(result, out))
    if html is not None:
        from moesim.report.html.training_weeks import training_weeks_page

        write_html(training_weeks_page(document, result), html, written)
    if json:
        print_json(result.metrics)
    else:
        _print(result.metrics, result.curve)


def _service(document, json: bool, out: Path | None, html: Path | None) -> None:
    from moesim.study.reliability.service_runs import service_of

    progress = Progress()
    result = service_of(document, progress=lambda done, total: progress("states", done, total))
    written = []
    if out is not None:
        from moesim.report.service import write_service_report

        written = note_written(write_service_report(result, out))
    if html is not None:
        from moesim.report.html.service_weeks import service_weeks_page

        write_html(service_weeks_page(document, result), html, written)
    if json:
        print_json(result.metrics)
    else:
        _print_service(result.metrics)


def _print_service(metrics: dict) -> None:
    say(f"{metrics['scenario']}: {metrics['description'].strip()}")
    say()
    happened = ", ".join(f"{count:.1f} × {name}" for name, count in metrics["failures"].items()) or "none"
    say(f"failures      {happened} a run, on {metrics['servers']} servers of {metrics['devices']:,} devices in all")
    without = metrics["without_rank"]
    if without["slowdown"] > 1:
        dropped = f", {without['dropped_share']:.2%} of token-expert pairs dropped" if without["dropped_share"] else ""
        say(f"one rank less steps take {without['slowdown']:.3f} × as long{dropped}")
    say(f"availability  {_percent(metrics['availability'])} with a server up")
    say(f"all up        {_percent(metrics['all_up'])}")
    say(f"goodput       {metrics['goodput_share']:.2%} of requests are good over all states")
    lost = metrics["lost_device_hours"]
    say(f"lost          {lost['mean']:,.0f} device-hours ({lost['p10']:,.0f} – {lost['p90']:,.0f})")
    say()
    rows = [(row["up"], row["slowed"], f"{row['share']:.4%}", *_latencies(row)) for row in metrics["states"]]
    columns = ("TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "good")
    print_table(rows, header=("up", "slowed", "of time", *columns), right=range(8))
    one = metrics["one_failure"]
    say()
    say(
        f"one failure   a server is down for {format_long(one['down_s'])}, then slowed for "
        f"{format_long(one['slowed_s'])}; {one['moved']} requests move to other servers"
    )
    rows = [(part, one[part]["requests"], *_latencies(one[part])) for part in ("before", "during", "after")]
    print_table(rows, header=("requests", "number", *columns), right=range(1, 7))


def _latencies(row: dict) -> tuple[str, ...]:
    from moesim.units import format_seconds

    names = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s")
    told = (format_seconds(row[name]) if row.get(name) is not None else "–" for name in names)
    return (*told, f"{row['good_share']:.1%}")


def _print(metrics: dict, curve) -> None:
    from moesim.units import format_bytes

    step, checkpoint = metrics["step"], metrics["checkpoint"]
    say(f"{metrics['scenario']}: {metrics['description'].strip()}")
    say()
    say(f"step          {step['source']}; {step['devices']:,} devices, {step['tokens']:,} tokens")
    happened = ", ".join(f"{count:.1f} × {name}" for name, count in metrics["failures"].items()) or "none"
    say(f"failures      {happened} a run; the job is stopped every {format_long(metrics['mtbf_s'])}")
    untouched = checkpoint["experts_touched"]
    part = f" ({untouched:.1%} of experts touched)" if untouched is not None else ""
    say(
        f"checkpoint    {format_bytes(checkpoint['bytes'])}{part} every {format_long(checkpoint['interval_s'])} of "
        f"work: stops {format_long(checkpoint['pause_s'])}, safe after {format_long(checkpoint['write_s'])}, loads in "
        f"{format_long(checkpoint['load_s'])}"
    )
    if checkpoint["daly_s"] is not None:
        say(f"              Young {format_long(checkpoint['young_s'])}, Daly {format_long(checkpoint['daly_s'])}")
    say(f"goodput       {_percent(metrics['goodput'])}")
    if metrics["goodput_by_daly"] is not None:
        say(f"              {metrics['goodput_by_daly']:.2%} by Daly's formula (spares at hand, no stragglers)")
    say(f"availability  {_percent(metrics['availability'])}")
    if metrics["wall_s"]:
        wall = metrics["wall_s"]
        say(f"wall time     {format_long(wall['mean'])} ({format_long(wall['p10'])} – {format_long(wall['p90'])})")
    lost = metrics["lost_device_hours"]
    say(f"lost          {lost['mean']:,.0f} device-hours ({lost['p10']:,.0f} – {lost['p90']:,.0f})")
    if metrics["dropped_share"]:
        say(f"dropped       {metrics['dropped_share']:.3%} of token-expert pairs")
    say()
    rows = [(state, f"{share:.2%}") for state, share in metrics["spent_share"].items()]
    print_table(rows, header=("wall time went to", "share"), right=(1,))
    if len(curve):
        say()
        rows = [(format_long(row.interval_s), f"{row.goodput:.2%}") for row in curve.itertuples()]
        print_table(rows, header=("interval", "goodput"), right=(0, 1))
    for reason in metrics["stopped"]:
        say(f"stopped: {reason}")
    if not metrics["complete"]:
        say(f"interrupted: these are {metrics['seeds']} seeds; with --out the same command goes on")


def _percent(spread: dict) -> str:
    return f"{spread['mean']:.2%} ({spread['p10']:.2%} – {spread['p90']:.2%}, 80 % of runs)"
