"""Everything that ``moesim run --out`` writes."""

from __future__ import annotations

import json
from pathlib import Path

from moesim.files import write_table, write_text
from moesim.network.transfer import Transfer
from moesim.report.figures.step import draw_breakdown, draw_expert_load, draw_layer_timeline, draw_traffic
from moesim.report.figures.topology import draw_topology
from moesim.report.perfetto import write_chrome_trace
from moesim.study.step.links import bottleneck, hottest_links, link_load, traffic_matrix
from moesim.study.step.metrics import expert_load
from moesim.study.step.run import Result


def write_step_report(result: Result, folder: str | Path) -> list[Path]:
    """Pictures (PNG), the whole timeline (Chrome-trace JSON) and the metrics (JSON) of one step. Returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    deployment, metrics = result.assembly.deployment, result.metrics
    title = result.assembly.title
    written = []

    def slowest(transfer: Transfer) -> tuple[str, str] | None:
        return bottleneck(deployment, transfer)

    layer = shown_layer(result)
    written.append(folder / "timeline.png")
    draw_layer_timeline(result.timeline, layer, written[-1], f"{title}: layer {layer} on every rank", slowest)
    written.append(folder / "breakdown.png")
    draw_breakdown(result.timeline, written[-1], title)
    if deployment.placement is not None:
        written.append(folder / "expert_load.png")
        load = expert_load(result.step, deployment.placement)
        draw_expert_load(load, written[-1], f"{title}: load of the replayed experts")
    written.append(folder / "timeline.json")
    write_chrome_trace(result.timeline, written[-1], slowest)
    written.append(folder / "metrics.json")
    _write_json(metrics, written[-1])
    return written


def shown_layer(result: Result) -> int:
    """The layer to draw: a MoE layer in the middle, as the first ones still carry the start of the step; with
    offloading the one in which copies are waited for longest."""
    if "offload" in result.metrics:
        return max(result.metrics["offload"]["layers"], key=lambda row: row["stall_s"])["layer"]
    model = result.assembly.deployment.model
    layers = model.moe_layers or range(len(model.layers))
    return layers[len(layers) // 2]


def write_link_report(result: Result, folder: str | Path) -> list[Path]:
    """The topology with the use of every link, the rank x rank traffic matrix, and the ten hottest links (CSV)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    deployment, title = result.assembly.deployment, result.assembly.title
    found = link_load(deployment, result.timeline, result.step.rounds)
    utilisation = dict(zip(deployment.network.links.ends, found.utilisation.tolist(), strict=True))
    topology, matrix, table = folder / "links.png", folder / "traffic.png", folder / "hottest_links.csv"
    draw_topology(deployment.cluster, topology, utilisation=utilisation, title=f"{title}: use of links over the step")
    traffic = traffic_matrix(deployment, result.step)
    if traffic.any():
        draw_traffic(traffic, matrix, f"{title}: dispatch and combine")
    write_table(table, hottest_links(deployment, found))
    return [topology, matrix, table] if traffic.any() else [topology, table]


def _write_json(data: object, path: Path) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
