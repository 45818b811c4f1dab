"""Write reports/main_job.md and its figures: what the shipped scenarios say, and how long they take.

python benchmarks/main_job_report.py [FOLDER]
"""

import platform
import resource
import sys
import time
from pathlib import Path

from test_run import process

from moesim.report.figures.step import draw_breakdown, draw_expert_load, draw_layer_timeline
from moesim.study.step.metrics import expert_load
from moesim.study.step.run import run_scenario
from moesim.units import format_bytes, format_seconds

SCENARIOS = (
    "quickstart",
    "deepseek-v3-decode-h100",
    "deepseek-v3-prefill-h100",
    "mixtral-8x7b-h100",
    "qwen3-235b-tpu-v5p",
)
RANKS = (72, 144, 288, 576)

HEAD = """# The main job

Made by `python benchmarks/main_job_report.py` on {machine}, Python {python}.

![One layer of the quickstart on every rank](figures/quickstart_timeline.png)

## Scenarios

`moesim run NAME` prints each in full; `--out DIR` draws it. Intervals hold 80 %; where a cost model was not measured on
the hardware they say so by being wide, and `moesim run` names the source under "cost models".

"""


def main(folder: Path) -> None:
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    text = [HEAD.format(machine=platform.machine(), python=platform.python_version())]
    text.append("| scenario | step | 80 % interval | tokens/s/device | bounds | exposed comm. | hottest rank | HBM |\n")
    text.append("|---|---|---|---|---|---|---|---|\n")
    for name in SCENARIOS:
        result = run_scenario(name)
        text.append(row(name, result.metrics))
        if name == "quickstart":
            draw(result, figures)
    text.append(shares())
    text.append(speeds())
    (folder / "main_job.md").write_text("".join(text), encoding="utf-8")


def row(name: str, metrics: dict) -> str:
    s = format_seconds
    rank = metrics["hottest_rank"]["per_layer_over_mean"]
    return (
        f"| `{name}` | {s(metrics['step_time_s'])} "
        f"| {s(metrics['step_time_low_s'])} – {s(metrics['step_time_high_s'])} "
        f"| {metrics['tokens_per_s_per_device']:,.0f} | {s(metrics['lower_bound_s'])} – {s(metrics['upper_bound_s'])} "
        f"| {s(metrics['exposed_communication_s'])} | {rank:.2f} × | {format_bytes(metrics['hbm_bytes'])} |\n"
    )


def draw(result, figures: Path) -> None:
    layers = result.assembly.deployment.model.moe_layers
    layer, title = layers[len(layers) // 2], result.assembly.title
    draw_layer_timeline(
        result.timeline, layer, figures / "quickstart_timeline.png", f"{title}: layer {layer} on every rank"
    )
    draw_breakdown(result.timeline, figures / "quickstart_breakdown.png", title)
    load = expert_load(result.step, result.assembly.deployment.placement)
    draw_expert_load(load, figures / "quickstart_expert_load.png", f"{title}: load of the replayed experts")


def shares() -> str:
    """What routing and placement do to the quickstart."""
    cases = {
        "as shipped: 32 replicas of hot experts": (),
        "no replicas of hot experts: `--set 'placement={kind: contiguous, slots_per_rank: 4}'`": (
            "placement={kind: contiguous, slots_per_rank: 4}",
        ),
        "synthetic, forced balance: `--set 'routing={kind: balanced}'`": ("routing={kind: balanced}",),
        "all eight domains mixed: `--set 'routing={kind: trace, trace: deepseek-v3-miniature}'`": (
            "routing={kind: trace, trace: deepseek-v3-miniature}",
        ),
    }
    lines = [
        "\n## What routing does to the quickstart\n\n",
        "| | step | experts | waiting | hottest rank, mean layer |\n",
    ]
    lines.append("|---|---|---|---|---|\n")
    for name, changes in cases.items():
        m = run_scenario("quickstart", changes).metrics
        lines.append(
            f"| {name} | {format_seconds(m['step_time_s'])} | {format_seconds(m['breakdown_s']['experts'])} "
            f"| {format_seconds(m['waiting_s'])} | {m['hottest_rank']['per_layer_over_mean']:.2f} × |\n"
        )
    lines.append("\n![Load of the experts](figures/quickstart_expert_load.png)\n")
    lines.append("\n![Where the time goes](figures/quickstart_breakdown.png)\n")
    return "".join(lines)


def speeds() -> str:
    """CPU seconds of a simulation by ranks, and of the whole process."""
    lines = [
        "\n## Speed\n\n",
        "CPU seconds in one process (least of three), 64 sequences a rank; `make bench` checks them.\n\n",
    ]
    lines.append("| ranks | seconds |\n|---|---|\n")
    for ranks in RANKS:
        slots = max(2, -(-288 // ranks))
        changes = (
            f"cluster={{hardware: gb200_nvl72, devices: {ranks}}}",
            f"parallelism={{attention_dp: {ranks}, ep: {ranks}}}",
            f"placement={{kind: replicate_hot, slots_per_rank: {slots}}}",
            "workload.sequences_per_rank=64",
            *(() if ranks <= 72 else ("network.all_to_all=deepep_low_latency",)),
        )
        lines.append(f"| {ranks} | {least(lambda changes=changes: run_scenario('quickstart', changes)):.2f} |\n")
    lines.append(
        f"\nThe quickstart itself: {least(lambda: run_scenario('quickstart')):.2f} s of CPU. As a whole process, "
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, megabytes = process("run", "quickstart", "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines.append(f"`moesim run quickstart --json` took {wall:.1f} s, {cpu:.1f} s of CPU and {megabytes:.0f} MB.\n")
    return "".join(lines)


def least(function, rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("reports"))
