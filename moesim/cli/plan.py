"""``moesim plan``: the cheapest way to serve a load within objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.options import HtmlOption, JsonOption, set_option
from moesim.cli.output import (
    Progress,
    check_folder,
    check_html,
    note_written,
    print_json,
    print_table,
    say,
    write_html,
)
from moesim.errors import InvalidInput

UNMET = 1


def plan(
    file: Annotated[str, typer.Argument(help="Name of a shipped plan, or a YAML file (docs/plan.md).")],
    json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table and the pictures.")] = None,
    html: HtmlOption = None,
    each: Annotated[
        bool, typer.Option("--each", help="Also say what is cheapest on each product alone: one more search each.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="The file plans a training run: days, money, energy.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes.")] = 2,
    change: Annotated[list[str] | None, set_option("Change a field, e.g. load.rate=40.")] = None,
) -> None:
    """Search hardware, degrees, precision and batch limits for the cheapest servers that meet an SLO (exit 1: none)."""
    if out is not None:
        check_folder(out)
    check_html(html)
    if train:
        if each:
            raise InvalidInput("--each is of plans for serving; leave it out with --train")
        _train(file, change or (), json, out, html)
        return
    from moesim.study.planning.each_product import cheapest_on_each
    from moesim.study.planning.plan import make_plan, records
    from moesim.study.results.record import rounded

    progress = Progress()
    result = make_plan(file, change or (), jobs=jobs, progress=progress)
    alone = cheapest_on_each(result, jobs=jobs, progress=progress) if each else None
    written = []
    if out is not None:
        from moesim.report.plan import write_plan_report

        written = note_written(write_plan_report(result, out))
    if html is not None:
        from moesim.report.html.plan import plan_page

        write_html(plan_page(result, alone), html, written)
    if json:
        print_json(result.metrics | ({} if alone is None else {"each_product": rounded(records(alone))}))
    else:
        _print(result.metrics)
        if alone is not None:
            _print_each(records(alone))
    if not result.found:
        raise typer.Exit(UNMET)


def _train(file: str, changes: list[str], json: bool, out: Path | None, html: Path | None) -> None:
    from moesim.study.planning.training_plan import make_training_plan

    result = make_training_plan(file, changes, progress=Progress())
    written = []
    if out is not None:
        from moesim.report.plan import write_training_plan_report

        written = note_written(write_training_plan_report(result, out))
    if html is not None:
        from moesim.report.html.training_plan import training_plan_page

        write_html(training_plan_page(result), html, written)
    if json:
        print_json(result.metrics)
        return
    metrics = result.metrics
    say(f"{metrics['plan']}: {metrics['description'].strip()}")
    say(f"asked         {metrics['tokens']:.4g} tokens")
    say()
    rows = [_alternative(row) for row in metrics["alternatives"]]
    header = (
        "train on",
        "devices",
        "step",
        "days (80 %)",
        "device-hours",
        "goodput",
        "MUSD",
        "× cheapest",
        "MWh",
        "t CO2e",
    )
    print_table(rows, header=header, right=range(1, 10))
    for row in metrics["alternatives"]:
        say(
            f"{row['name']}: beside the work, most time goes to {row['largest_loss']} ({row['largest_loss_share']:.1%})"
        )
        if row["stopped"]:
            say(f"{row['name']}: stopped, {row['stopped']}")


def _alternative(row: dict) -> tuple[str, ...]:
    if row["days"] is None:
        return (row["name"], f"{row['devices']:,}", f"{row['step_s']:.3g} s", "never", *("–",) * 6)
    days = f"{row['days']:.1f} ({row['days_low']:.1f} – {row['days_high']:.1f})"
    power = ("–" if row[key] is None else f"{row[key]:,.0f}" for key in ("mwh", "tonnes_co2e"))
    money = (f"{row['usd'] / 1e6:.3g}", f"{row['over_cheapest']:.2f}")
    hours = (f"{row['device_hours']:,.0f}", f"{row['goodput']:.1%}")
    return (row["name"], f"{row['devices']:,}", f"{row['step_s']:.3g} s", days, *hours, *money, *power)


def _print(metrics: dict) -> None:
    from moesim.units import format_seconds as s

    slo = metrics["slo"]
    say(f"{metrics['plan']}: {metrics['description'].strip()}")
    wanted = f"TTFT ≤ {s(slo['ttft_s'])}, TPOT ≤ {s(slo['tpot_s'])} for {slo['percentile']:g} % of requests"
    say(f"asked         {metrics['model']}, {metrics['rate']:g} requests/s, {wanted}")
    dropped = sum(metrics["dropped"].values())
    say(f"candidates    {metrics['considered']:,}: {metrics['served']:,} served, {dropped:,} dropped")
    for reason, count in metrics["dropped"].items():
        say(f"              {count:,} {reason}")
    best = metrics["best"]
    if best is None:
        closest = metrics["closest"]
        say("recommended   nothing meets the objectives" + ("" if closest else "; nothing could be served"))
        if closest:
            say(f"closest       {closest['label']}: {closest['binds']}")
        return
    say(f"recommended   {_servers(best)}")
    costs = f"{best['usd_per_million_output_tokens']:.3g} USD a million output tokens"
    say(f"costs         {best['usd_per_hour']:,.2f} USD/h, {costs}, {best['usd_per_million_tokens']:.3g} of all tokens")
    if best["kwh_per_million_output_tokens"] is not None:
        grams = best["grams_co2e_per_million_output_tokens"]
        carbon = f", {grams:,.0f} g CO2e" if grams is not None else ""
        say(f"energy        {best['kwh_per_million_output_tokens']:.3g} kWh{carbon} a million output tokens")
    if best["usd_training_per_million_tokens_served"] is not None:
        say(f"training adds {best['usd_training_per_million_tokens_served']:.3g} USD a million tokens served")
    low, high = metrics["intervals"]["tpot"]
    say(f"users get     TTFT {s(best['ttft_s'])}, TPOT {s(best['tpot_s'])} (× {low:.2f} – {high:.2f}, 80 %)")
    say(f"what binds    with a server less: {best['binds']}")
    say()
    rows = [
        (_servers(row), f"{row['usd_per_hour']:,.2f}", f"{row['usd_per_million_output_tokens']:.3g}",
         s(row["ttft_s"]), s(row["tpot_s"]), row["binds"])
        for row in (best, *metrics["runners_up"])
    ]  # fmt: skip
    print_table(rows, header=("plan", "USD/h", "USD/M out", "TTFT", "TPOT", "a server less"), right=(1, 2, 3, 4))
    _print_studies(metrics)


def _print_each(rows: list[dict]) -> None:
    say()
    table = [
        (row["product"].partition(",")[0], *(("", "", row["closest"]) if row["closest"] else _bill(row)))
        for row in rows
    ]
    print_table(table, header=("on each product alone", "USD/h", "USD/M out", "servers, or the closest"), right=(1, 2))


def _bill(row: dict) -> tuple[str, str, str]:
    return f"{row['usd_per_hour']:,.2f}", f"{row['usd_per_million_output_tokens']:.3g}", _servers(row)


def _print_studies(metrics: dict) -> None:
    if metrics["finalists"]:
        say()
        header = ("finalists' decode step by the engine", "overlap", "spare slots", "step", "faster", "hottest rank")
        print_table([_finalist(row) for row in metrics["finalists"]], header=header, right=(2, 3, 4, 5))
    say()
    rows = [(row["knob"], f"{row['requests_per_s']:.2f}", f"{row['gain']:+.1%}") for row in metrics["sensitivity"]]
    print_table(rows, header=("what would help the recommended servers", "requests/s", "gain"), right=(1, 2))
    if metrics["compared"]:
        say()
        header = ("against dense", "cheapest servers", "USD/M out", "of the plan", "break-even")
        print_table([_dense(row) for row in metrics["compared"]], header=header, right=(2, 3, 4))


def _finalist(row: dict) -> tuple[str, ...]:
    from moesim.units import format_seconds

    setting = (row["label"], row["overlap"], str(row["spare_slots"]))
    if row["note"]:
        return (*setting, "–", "–", row["note"].splitlines()[0])
    return (*setting, format_seconds(row["step_s"]), f"{row['gain']:+.1%}", f"{row['hottest_rank_over_mean']:.2f} ×")


def _dense(row: dict) -> tuple[str, ...]:
    if not row["label"]:
        return (row["model"], "nothing meets the objectives", "", "", "")
    paid = f"{row['break_even_tokens']:.3g} tokens" if row["break_even_tokens"] is not None else "–"
    cost = f"{row['usd_per_million_output_tokens']:.3g}"
    return (row["model"], row["label"], cost, f"{row['over_plan']:.2f} ×", paid)


def _servers(row: dict) -> str:
    apart = f" + {row['prefill_servers']}" if row["prefill_servers"] else ""
    return f"{row['servers']}{apart} servers of {row['label']}"
