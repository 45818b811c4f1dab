"""A picture of a cluster: racks under leaves and spines, a torus, a mesh, or whatever graph a profile writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moesim.files import whole_file
from moesim.hardware.topology import Cluster
from moesim.report.figures.topology_layout import Drawing, lay_out

COLOURS = {
    "nvlink": "#6aa84f",
    "xgmi": "#c4572e",
    "ici": "#2f5d8a",
    "pcie": "#9aa5b1",
    "infiniband": "#7a6ca8",
    "ethernet": "#e0a030",
}
_LINE_WIDTH = {"nvlink": 1.4, "xgmi": 1.0, "ici": 1.0, "pcie": 1.0, "infiniband": 0.7, "ethernet": 0.7}


def draw_topology(
    cluster: Cluster,
    path: str | Path,
    *,
    utilisation: Mapping[tuple[str, str], float] | None = None,
    title: str = "",
) -> None:
    """Draw the graph of a cluster into a PNG.

    utilisation: share of the time that each directed link is busy, by its ends; lines then carry it as a colour from 0
    to 100 %, the same in every picture (a line that stands for several links shows the busiest), else the kind of link.
    """
    drawing = lay_out(cluster)
    figure, axes = _canvas(drawing)
    _draw_boxes(axes, drawing)
    shades = _draw_lines(axes, drawing, utilisation)
    _draw_nodes(axes, drawing)
    if shades is not None:
        _scale(figure, axes, shades)
    else:
        _legend(axes, cluster, drawing)
    note = f" ({drawing.note})" if drawing.note else ""
    axes.set_title((title or f"{cluster.hardware.title}: {cluster.ranks} devices") + note, fontsize=10)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _canvas(drawing: Drawing):
    """Figure and axes in the drawing's own proportions, within 6.5 to 22 inches of width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [p for line, _, _ in drawing.lines for p in line]
    points += list(drawing.devices.values()) + list(drawing.switches.values())
    points += [(x + dx, y + dy) for x, y, w, h, _ in drawing.boxes for dx, dy in ((0, -0.8), (w, h))]
    left, right = min(x for x, _ in points) - 0.8, max(x for x, _ in points) + 0.8
    low, high = min(y for _, y in points) - 0.8, max(y for _, y in points) + 0.8
    width = min(22.0, max(6.5, 0.3 * (right - left)))
    height = min(14.0, max(3.0, width * (high - low) / (right - left)))
    figure = Figure(figsize=(width, height + 0.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.axis("off")
    return figure, axes


def _draw_boxes(axes, drawing: Drawing) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    for x, y, width, height, text in drawing.boxes:
        axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0.15", fc="#f4f5f7", ec="#c5ccd3", lw=0.6, zorder=0
            )
        )
        axes.text(x + width / 2, y - 0.55, text, ha="center", va="center", fontsize=6, color="#6b7580")
    for x, y, width, height, text in drawing.bars:
        axes.add_patch(Rectangle((x, y), width, height, fc=COLOURS["nvlink"], ec="none", zorder=3))
        middle = (x + width / 2, y + height / 2)
        axes.text(*middle, text, ha="center", va="center", fontsize=6, color="white", rotation=90, zorder=4)


def _draw_lines(axes, drawing: Drawing, utilisation: Mapping[tuple[str, str], float] | None):
    """Lines by kind; returns what a colour bar needs, if lines carry utilisation."""
    from matplotlib.collections import LineCollection

    lines = [line for line, _, _ in drawing.lines]
    widths = [_LINE_WIDTH.get(kind, 0.8) for _, kind, _ in drawing.lines]
    if utilisation is None:
        colours = [COLOURS.get(kind, "#444444") for _, kind, _ in drawing.lines]
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, alpha=0.75, zorder=1))
        return None
    busiest = [max((utilisation.get(edge, 0.0) for edge in edges), default=0.0) for _, _, edges in drawing.lines]
    order = sorted(range(len(lines)), key=busiest.__getitem__)  # the busiest on top
    shades = LineCollection(
        [lines[i] for i in order], linewidths=[1.6 * widths[i] for i in order], cmap="inferno_r", zorder=1
    )
    shades.set_array([busiest[i] for i in order])
    shades.set_clim(0, 1)
    axes.add_collection(shades)
    return shades


def _scale(figure, axes, shades) -> None:
    """The colours from 0 to 100 %, and a mark at the busiest link of this picture."""
    bar = figure.colorbar(shades, ax=axes, fraction=0.025, pad=0.01, ticks=[0, 0.25, 0.5, 0.75, 1], format="{x:.0%}")
    bar.set_label("bytes on a link over what it could carry meanwhile", fontsize=8)
    busiest = max(shades.get_array().tolist(), default=0.0)
    if busiest > 0:
        bar.ax.axhline(min(busiest, 1.0), color="#2f80ed", linewidth=1.2)
        bar.ax.set_title(f"most\n{busiest:.1%}", fontsize=6, color="#2f80ed")


def _draw_nodes(axes, drawing: Drawing) -> None:
    if drawing.devices:
        x, y = zip(*drawing.devices.values(), strict=True)
        size = 22 if len(drawing.devices) <= 320 else 6
        colour = {"c": drawing.depth, "cmap": "cividis", "vmax": 1.3} if drawing.depth else {"c": "#263238"}
        axes.scatter(x, y, s=size, marker="s", linewidths=0, zorder=2, **colour)
    if drawing.switches:
        x, y = zip(*drawing.switches.values(), strict=True)
        axes.scatter(x, y, s=46, marker="o", c="#ffffff", edgecolors="#7a6ca8", linewidths=1.2, zorder=2)
    if len(drawing.switches) <= 40:
        for name, (x, y) in drawing.switches.items():
            axes.annotate(name, (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=5, color="#4a4560")


def _legend(axes, cluster: Cluster, drawing: Drawing) -> None:
    """Each kind of link that is drawn, with up to three of the capacities that it comes in."""
    from matplotlib.lines import Line2D

    capacities: dict[str, set[float]] = {}
    for _, kind, edges in drawing.lines:
        for link in (cluster.graph.edges[edge] for edge in edges if cluster.graph.has_edge(*edge)):
            if link["kind"] == kind:
                capacities.setdefault(kind, set()).add(link["capacity"])
    handles = [
        Line2D([], [], color=COLOURS.get(kind, "#444444"), label=f"{kind}: {_capacities(found)} GB/s a link")
        for kind, found in capacities.items()
    ]
    if handles:
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=7, frameon=False)


def _capacities(found: set[float]) -> str:
    return ", ".join(f"{capacity / 1e9:.4g}" for capacity in sorted(found)[:3])
