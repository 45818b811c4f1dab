"""``moesim serve``: requests in, latencies out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import Progress, check_html, note, note_written, print_json, print_table, say, write_html
from moesim.files import write_table


def serve(
    scenario: Annotated[
        str,
        typer.Argument(help="Name of a shipped serving scenario, or a YAML file.", autocompletion=complete_scenario),
    ],
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures and the table of requests.")] = None,
    html: HtmlOption = None,
    exact: Annotated[bool, typer.Option("--exact", help="Simulate every step, not runs of equal steps.")] = False,
    change: Annotated[list[str] | None, set_option("Change a field, e.g. load.arrivals.in_flight=32.")] = None,
) -> None:
    """Serve a load and print TTFT, TPOT, throughput and goodput. Partial results of a stopped run are marked."""
    from moesim.study.serving_load.serve import serve_scenario

    check_html(html)
    show = Progress()
    result = serve_scenario(
        scenario, change or (), exact=exact, progress=lambda done, total: show("requests", done, total)
    )
    written = note_written([] if out is None else _write(result, out))
    if html is not None:
        from moesim.report.html.serving import serving_page

        write_html(serving_page(result), html, written)
    if result.run.stopped:
        note(f"{result.run.stopped}: partial results of {result.metrics['requests']['finished']} finished requests")
    if json:
        print_json(result.metrics)
    else:
        _print(result.metrics)


def _write(result, folder: Path) -> list[Path]:
    from moesim.report.figures.serving import draw_latencies, draw_timeline

    folder.mkdir(parents=True, exist_ok=True)
    title = result.metrics["title"] + (f" ({result.run.stopped})" if result.run.stopped else "")
    paths = [folder / name for name in ("timeline.png", "latencies.png", "requests.parquet")]
    draw_timeline(result.run.journals, paths[0], title)
    draw_latencies(result.table, paths[1], title)
    write_table(paths[2], result.table)
    return paths


def _print(metrics: dict) -> None:
    from moesim.units import format_seconds

    say(f"{metrics['scenario']}: {metrics['title']}")
    if metrics["description"]:
        say(metrics["description"].strip())
    say()
    if metrics["stopped"] == "overloaded":
        say("overloaded: requests come faster than they are served; stopped, what follows is partial")
    elif metrics["stopped"]:
        say(f"{metrics['stopped']}: what follows is partial")
    counts = metrics["requests"]
    say("requests    " + ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "finished"))
    levels = ("mean", "p50", "p90", "p95", "p99")
    rows = []
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("latency_s", "end to end")):
        found = metrics[name]
        if found:
            low, high = found.get("mean_low"), found.get("mean_high")
            interval = f"{format_seconds(low)} – {format_seconds(high)}" if low is not None else ""
            rows.append((label, *(format_seconds(found[level]) for level in levels), interval))
    print_table(rows, header=("", *levels, "mean, 80 %"), right=range(1, 7))
    say()
    rate = f"{metrics['requests_per_s']:.2f} requests/s, {metrics['output_tokens_per_s']:,.0f} output tokens/s"
    say(f"throughput  {rate}, {metrics['output_tokens_per_s_per_device']:,.0f} a device ({metrics['devices']})")
    if good := metrics["goodput"]:
        slo = f"TTFT ≤ {format_seconds(good['ttft_s'])}, TPOT ≤ {format_seconds(good['tpot_s'])}"
        say(f"goodput     {good['requests_per_s']:.2f} requests/s, {good['share']:.1%} within {slo}")
    if scaled := metrics["elastic"]:
        always = f"{scaled['device_hours']:.1f} device-hours"
        say(
            f"elastic     {scaled['mean_servers']:.2f} servers on average, {scaled['most_servers']} at most, {always}; "
            f"a new one serves after {format_seconds(scaled['start_s'])}"
        )
    for number, server in enumerate(metrics["servers"]):
        if server["steps"]:
            say(
                f"server {number}    {server['steps']} steps, batch {server['mean_batch']:.1f}, waiting "
                f"{server['mean_waiting']:.1f} (most {server['most_waiting']:.0f}), KV peak "
                f"{server['peak_kv_share']:.0%}, busiest rank {server['busiest_rank_over_mean']:.2f} × the mean, "
                f"hottest of experts {server['hottest_rank_over_mean']:.2f} ×"
            )
    say()
    for name, text in metrics["provenance"].items():
        say(f"{name}: {text}")
