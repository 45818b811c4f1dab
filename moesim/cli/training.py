"""How a simulated training step is printed."""

from __future__ import annotations

from moesim.cli.output import print_heading, print_table, say


def print_training(metrics: dict) -> None:
    """Headline, memory, hot spots and the step divided among what ranks do."""
    from moesim.units import format_bytes, format_seconds

    s = format_seconds
    print_heading(metrics)
    interval = f"({s(metrics['step_time_low_s'])} – {s(metrics['step_time_high_s'])}, 80 % interval)"
    say(f"step time     {s(metrics['step_time_s'])}  {interval}, {metrics['microbatches']} microbatches a replica")
    say(f"throughput    {metrics['tokens_per_s']:,.0f} tokens/s, {metrics['tokens_per_s_per_device']:,.0f} per device")
    flops = metrics["model_flops_per_s_per_device"] / 1e12
    say(f"model FLOPs   {flops:,.0f} TFLOP/s per device, MFU {metrics['mfu']:.1%} of the BF16 peak")
    total = metrics["step_time_s"]
    say(f"bubble        {metrics['bubble_share']:.1%} of the step, waiting for the pipeline or the end of the step")
    exposed = metrics["exposed_communication_s"]
    say(f"communication {s(exposed)}, {exposed / total:.1%} of the step, in which the mean rank waits for a collective")
    say(f"bounds        {s(metrics['lower_bound_s'])} ≤ step ≤ {s(metrics['upper_bound_s'])}")
    hbm = metrics["hbm"]
    parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in hbm["by_kind"].items() if size)
    say(f"HBM           {format_bytes(metrics['hbm_bytes'])} of {format_bytes(hbm['capacity'])} ({parts})")
    if hot := metrics["hottest_rank"]:
        layer = f"{hot['per_layer_over_mean']:.2f} × in the mean layer"
        say(f"hottest rank  computes {hot['over_mean']:.2f} × the mean over the step; {layer}")
    say()
    rows = [(kind, s(value), f"{value / total:.1%}") for kind, value in metrics["breakdown_s"].items()]
    print_table(rows, header=("mean rank", "time", "of step"), right=(1, 2))
    say()
    for name, text in metrics["provenance"].items():
        say(f"{name}: {text}")
