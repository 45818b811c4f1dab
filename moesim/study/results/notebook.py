"""How results show themselves in a notebook: a title and a small table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from moesim.units import format_bytes, format_seconds


def small_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """HTML of (name, value) rows under a title."""
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<h4>{html.escape(title)}</h4><table>{cells}</table>"


def step_html(metrics: Mapping[str, object]) -> str:
    """A simulated step, of inference or training."""
    interval = f"{format_seconds(metrics['step_time_low_s'])} – {format_seconds(metrics['step_time_high_s'])}"
    longest = list(metrics["breakdown_s"].items())[:3]
    share = metrics["hbm_bytes"] / metrics["hbm"]["capacity"]
    rows = [
        ("step time", f"{format_seconds(metrics['step_time_s'])} ({interval}, 80 % interval)"),
        (
            "throughput",
            f"{metrics['tokens_per_s']:,.0f} tokens/s, {metrics['tokens_per_s_per_device']:,.0f} per device",
        ),
        ("exposed communication", format_seconds(metrics["exposed_communication_s"])),
        ("longest", ", ".join(f"{kind} {value / metrics['step_time_s']:.0%}" for kind, value in longest)),
        ("HBM", f"{format_bytes(metrics['hbm_bytes'])}, {share:.0%} of {format_bytes(metrics['hbm']['capacity'])}"),
    ]
    if "mfu" in metrics:
        rows.insert(2, ("MFU", f"{metrics['mfu']:.1%}"))
    return small_table(str(metrics["title"]), [*rows, ("cost models", metrics["provenance"]["cost models"])])


def serving_html(metrics: Mapping[str, object]) -> str:
    """A served load."""
    rows = [("requests", ", ".join(f"{count:,} {name}" for name, count in metrics["requests"].items() if count))]
    for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s")):
        if found := metrics[key]:
            mean = f"mean {format_seconds(found['mean'])} "
            mean += f"({format_seconds(found['mean_low'])} – {format_seconds(found['mean_high'])}, 80 % interval)"
            rows.append((name, f"{mean}, p50 {format_seconds(found['p50'])}, p99 {format_seconds(found['p99'])}"))
    rate = f"{metrics['output_tokens_per_s']:,.0f} tokens/s"
    rows.append(("output", f"{rate}, {metrics['output_tokens_per_s_per_device']:,.0f} per device"))
    if good := metrics["goodput"]:
        rows.append(("goodput", f"{good['requests_per_s']:.2f} requests/s, {good['share']:.1%} of requests"))
    if metrics["stopped"]:
        rows.append(("partial", str(metrics["stopped"])))
    return small_table(str(metrics["title"]), rows)


def plan_html(metrics: Mapping[str, object]) -> str:
    """A capacity plan's recommendation; its candidates stand in a table of their own."""
    best, closest = metrics["best"], metrics["closest"]
    considered = ("candidates", f"{metrics['considered']:,}, of which {metrics['served']:,} were served")
    if best is None:
        near = f"{closest['label']}: {closest['binds']}" if closest else "nothing could be served"
        return small_table(f"Plan {metrics['plan']}: nothing meets the objectives", [("closest", near), considered])
    apart = f" + {best['prefill_servers']}" if best["prefill_servers"] else ""
    rows = [
        ("recommended", f"{best['servers']}{apart} servers of {best['label']}"),
        ("cost", f"{best['usd_per_hour']:,.2f} USD/h, {best['usd_per_million_output_tokens']:.3g} USD/M output tokens"),
        ("users get", f"TTFT {format_seconds(best['ttft_s'])}, TPOT {format_seconds(best['tpot_s'])}"),
        ("a server less", str(best["binds"])),
        considered,
    ]
    return small_table(f"Plan {metrics['plan']}", rows)


def spread_html(title: str, metrics: Mapping[str, object], names: Iterable[str]) -> str:
    """Figures over seeds (``{mean, p10, p90}``) or single numbers, those of `names` that there are."""
    rows = []
    for name in names:
        value = metrics.get(name)
        if isinstance(value, Mapping) and "mean" in value:
            span = f" ({value['p10']:.4g} – {value['p90']:.4g})" if "p10" in value and "p90" in value else ""
            rows.append((name, f"{value['mean']:.4g}{span}"))
        elif isinstance(value, (int, float)):
            rows.append((name, f"{value:.4g}"))
    return small_table(title, rows)
