"""Ranks where they stand, one panel a degree: which of them form a group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.hardware.topology import Cluster
from moesim.report.figures.canvas import new_figure, save_figure

MOST_ROWS = 64  # that still read
MOST_NUMBERS = 512  # cells that have room for a number
_COLOURS = 20


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """row, column: [rank] cell of each rank. across: [row] unit in whose likeness lines part the rows. labels: of both
    directions."""

    row: np.ndarray
    column: np.ndarray
    across: np.ndarray
    labels: tuple[str, str]


def draw_layout(cluster: Cluster, axes: dict[str, np.ndarray], path: str | Path, title: str = "") -> None:
    """A cell a device, coloured and numbered by its group in each degree.

    axes: {degree: [group, member] ranks}. A row is a node, or a line of a torus along its last axis; lines part
    scale-up domains of several nodes, or planes of the torus. Large clusters show their first rows.
    """
    places = _torus(cluster) if "shape" in cluster.options else _nodes(cluster)
    shown = np.flatnonzero(places.row < MOST_ROWS)
    rows, width = min(int(places.row.max()) + 1, MOST_ROWS), int(places.column.max()) + 1
    panels = axes or {"one rank": np.arange(cluster.ranks)[:, None]}
    figure, panes = new_figure(max(2.6, 0.34 * width + 1.2) * len(panels), 1.4 + 0.26 * rows, len(panels))
    for pane, (axis, groups) in zip(panes, panels.items(), strict=True):
        group = np.zeros(cluster.ranks, dtype=int)
        for index, members in enumerate(groups):
            group[members] = index
        _cells(pane, places, shown, group, (rows, width))
        for border in np.flatnonzero(np.diff(places.across[:rows])):
            pane.axhline(border + 0.5, color="black", linewidth=1.2)
        pane.set_title(f"{axis} {groups.shape[1]}: {groups.shape[0]} groups", fontsize=9)
        pane.set_xlabel(places.labels[1])
        pane.set_xticks(np.arange(0, width, max(1, width // 8)))
    panes[0].set_ylabel(places.labels[0])
    hidden = int(places.row.max()) + 1 - rows
    figure.suptitle(title + (f" (first {rows} rows of {rows + hidden})" if hidden else ""), fontsize=9)
    save_figure(figure, path)


def _cells(pane, places: _Places, shown: np.ndarray, group: np.ndarray, size: tuple[int, int]) -> None:
    from matplotlib import colormaps

    cells = np.full((*size, 4), 1.0)
    cells[places.row[shown], places.column[shown]] = colormaps["tab20"](group[shown] % _COLOURS)
    pane.imshow(cells, aspect="auto", interpolation="nearest")
    if shown.size <= MOST_NUMBERS:
        for rank in shown:
            pane.text(places.column[rank], places.row[rank], str(group[rank]), ha="center", va="center", fontsize=6)


def _nodes(cluster: Cluster) -> _Places:
    order = np.argsort(cluster.node, kind="stable")
    nodes, first, row = np.unique(cluster.node[order], return_index=True, return_inverse=True)
    column = np.empty(cluster.ranks, dtype=int)
    column[order] = np.arange(cluster.ranks) - first[row]
    domain = np.array([cluster.domain[order[place]] for place in first])
    across = np.zeros(nodes.size, dtype=int) if np.unique(domain).size == nodes.size else domain
    return _Places(np.searchsorted(nodes, cluster.node), column, across, ("node", "device of the node"))


def _torus(cluster: Cluster) -> _Places:
    shape = cluster.options["shape"]
    ranks = np.arange(cluster.ranks)
    row = ranks // shape[-1]
    planes = np.arange(row.max() + 1) // (shape[-2] if len(shape) > 1 else 1)
    others = " and ".join(str(axis) for axis in range(len(shape) - 1))
    return _Places(row, ranks % shape[-1], planes, (f"axes {others}", f"axis {len(shape) - 1} of the torus"))
