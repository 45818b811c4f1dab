"""Write reports/routers.md from trained routers: what each learns, and what its routing costs on three clusters.

moesim compare-routers --out out/routers          # trains what is missing, some 15 CPU-minutes for all
python benchmarks/routers_report.py out/routers
"""

import sys
from pathlib import Path

from moesim.lab.compare import run_of_trace
from moesim.report.figures.routers import draw_router_comparison
from moesim.routing.router_names import ROUTER_NAMES
from moesim.routing.trace import open_trace
from moesim.study.comparison.compare_routers import SCENARIOS, compare_routers

HEAD = """# Routers compared by the time they cost

Made by `moesim compare-routers --out out/routers`, then `python benchmarks/routers_report.py out/routers`.

Every router is trained in the same reference model on the same text for the same {steps} steps, with equal expert
parameters and equal active ones (a router that takes fewer experts gets fewer and wider ones). What it chooses on
held-out text is then replayed in OLMoE-1B-7B on three clusters (`scenarios/routers-*.yaml`): one decode step of 256
sequences a rank. Only routing differs between the rows of a column.

So short a training ranks routers by how fast they learn, not by what they reach: differences in loss below about 0.05
nats are seed noise. Soft MoE and Expert Choice look at tokens that a decoding model does not have yet, so their loss is
not comparable and their balance is not to be had in decoding.

![Loss against step time](figures/routers.png)

"""


def main(folder: Path, reports: Path) -> None:
    runs = [
        run_of_trace(open_trace(path)) for name in ROUTER_NAMES if (path := folder / f"{name}.safetensors").exists()
    ]
    table = compare_routers(runs)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    draw_router_comparison(table, reports / "figures" / "routers.png")
    header = ["router", "held-out loss", "hottest / mean", "Gini", "dropped", "experts a token"]
    header += [f"{name.removeprefix('routers-')} step (hottest rank)" for name in SCENARIOS]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in table.to_dict("records"):
        cells = [
            f"`{row['router']}`",
            f"{row['held_out_loss']:.3f}",
            f"{row['max_over_mean']:.2f}",
            f"{row['gini']:.3f}",
        ]
        cells += [f"{row['dropped']:.1%}", f"{row['choices']:.2f}"]
        cells += [f"{row[f'{n}_step_s'] * 1e3:.2f} ms ({row[f'{n}_hottest_rank']:.2f})" for n in SCENARIOS]
        lines.append(f"| {' | '.join(cells)} |")
    what = "\n".join(f"- `{name}`: {text}" for name, text in ROUTER_NAMES.items())
    steps = runs[0].trace.metadata["schedule"]["steps"]
    text = HEAD.format(steps=steps) + "\n".join(lines) + f"\n\n{what}\n"
    (reports / "routers.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("reports"))
