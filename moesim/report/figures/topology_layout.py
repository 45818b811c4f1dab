"""Where each node of a topology graph is drawn, and which links are drawn as one line.

A node of a hundred links would be a hairball: the planes of an NVLink domain become one bar, a NIC disappears into the
line from its device to its leaf, and of equal slices only the first is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from moesim.hardware.topology import Cluster

MOST_DOMAINS = 36  # boxes that still read

Point = tuple[float, float]
Edge = tuple[str, str]


@dataclass(slots=True)
class Drawing:
    """What to draw. devices, switches: place of each node. depth: of each device in a 3-D picture, 0 in front to 1.

    lines: polyline, its kind, and the directed edges that it stands for. bars, boxes: (x, y, width, height, text).
    note: what was left out.
    """

    devices: dict[str, Point] = field(default_factory=dict)
    switches: dict[str, Point] = field(default_factory=dict)
    depth: list[float] = field(default_factory=list)
    lines: list[tuple[list[Point], str, list[Edge]]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    note: str = ""

    def line(self, points: list[Point], kind: str, edges: Iterable[Edge]) -> None:
        """Add a line for edges, each of which stands for both directions."""
        self.lines.append((points, kind, [way for a, b in edges for way in ((a, b), (b, a))]))


def lay_out(cluster: Cluster) -> Drawing:
    """The drawing that suits the fabric: a torus, boxes of devices under leaves and spines, or a plain graph."""
    if "shape" in cluster.options:
        return _torus(cluster)
    kinds = nx.get_node_attributes(cluster.graph, "kind")
    if any(name.startswith(("nvlink", "pcie")) for name in kinds):
        return _racks(cluster)
    if cluster.options.get("scale_up") == "mesh":
        return _meshes(cluster)
    return _plain(cluster)


def _racks(cluster: Cluster) -> Drawing:
    """A box a domain: devices in rows of a server around the bar of the switch planes."""
    drawing, left = Drawing(), 0.0
    planes = {}
    for name, kind in cluster.graph.nodes(data="kind"):
        if kind == "switch" and name.startswith(("nvlink", "pcie")):
            planes.setdefault(int(name.removeprefix("nvlink").removeprefix("pcie").partition(".")[0]), []).append(name)
    for domain in _shown_domains(cluster, drawing):
        members = np.flatnonzero(cluster.domain == domain)
        per_server = int((cluster.node == cluster.node[members[0]]).sum())
        columns = per_server if per_server < members.size else 1
        rows = members.size // columns
        pitch = 0.7 if rows > 9 else 1.0
        half = (columns + 1) // 2
        bar = left + half + 0.5
        switches = planes.get(domain, [])
        for place, rank in enumerate(members):
            row, column = divmod(place, columns)
            x = left + 0.5 + column + (1.0 if column >= half else 0.0)
            # A device further from the bar stands a little higher, so that its line passes its neighbour.
            y = (rows - row - 0.5) * pitch + 0.16 * (half - 1 - column if column < half else column - half)
            name = cluster.devices[rank]
            drawing.devices[name] = (x, y)
            ports = [(name, switch) for switch in switches if cluster.graph.has_edge(name, switch)]
            if ports:
                drawing.line([(x, y), (bar, y)], cluster.graph.edges[ports[0]]["kind"], ports)
        width, height = columns + 1.0, rows * pitch
        drawing.bars.append((bar - 0.2, 0.2, 0.4, height - 0.4, _count(len(switches), "plane")))
        drawing.boxes.append((left, 0.0, width, height, f"{domain}"))
        left += width + 0.6
    _scale_out(cluster, drawing, left - 0.6)
    return drawing


def _meshes(cluster: Cluster) -> Drawing:
    """A circle of directly linked devices a node, under leaves and spines."""
    drawing, left = Drawing(), 0.0
    for domain in _shown_domains(cluster, drawing):
        members = np.flatnonzero(cluster.domain == domain)
        radius = max(1.6, members.size / 5)
        angle = np.pi / 2 - 2 * np.pi * np.arange(members.size) / members.size
        for rank, a in zip(members, angle, strict=True):
            place = (left + radius + 0.4 + radius * np.cos(a), radius + 0.4 + radius * np.sin(a))
            drawing.devices[cluster.devices[rank]] = place
        names = [cluster.devices[rank] for rank in members]
        for index, a in enumerate(names):
            for b in names[index + 1 :]:
                if cluster.graph.has_edge(a, b):
                    ends = [drawing.devices[a], drawing.devices[b]]
                    drawing.line(ends, cluster.graph.edges[a, b]["kind"], [(a, b)])
        side = 2 * radius + 0.8
        drawing.boxes.append((left, 0.0, side, side, f"{domain}"))
        left += side + 0.6
    _scale_out(cluster, drawing, left - 0.6)
    return drawing


def _shown_domains(cluster: Cluster, drawing: Drawing) -> range:
    domains = int(cluster.domain.max()) + 1
    if domains > MOST_DOMAINS:
        drawing.note = f"the first {MOST_DOMAINS} of {domains} domains"
    return range(min(domains, MOST_DOMAINS))


def _scale_out(cluster: Cluster, drawing: Drawing, width: float) -> None:
    """Leaves above the boxes and spines above the leaves; one line from a box to each leaf that its NICs reach."""
    graph = cluster.graph
    top = max(y + height for _, y, _, height, _ in drawing.boxes)
    reach: dict[tuple[int, str], list[Edge]] = {}
    for rank, device in enumerate(cluster.devices):
        if device in drawing.devices:
            for nic in (n for n in graph.successors(device) if graph.nodes[n]["kind"] == "nic"):
                for leaf in (n for n in graph.successors(nic) if graph.nodes[n]["kind"] == "switch"):
                    reach.setdefault((int(cluster.domain[rank]), leaf), []).extend([(device, nic), (nic, leaf)])
    leaves = sorted({leaf for _, leaf in reach}, key=_numbers)
    if not leaves:
        return
    rise = max(4.0, width / 12)
    _row(drawing, leaves, width, top + rise)
    for (domain, leaf), edges in reach.items():
        x, _, span, height, _ = drawing.boxes[domain]
        drawing.line([(x + span / 2, height), drawing.switches[leaf]], graph.edges[edges[1]]["kind"], edges)
    spines = sorted({s for leaf in leaves for s in graph.successors(leaf) if s.startswith("spine")}, key=_numbers)
    _row(drawing, spines, width, top + 1.8 * rise)
    for leaf in leaves:
        for spine in (s for s in spines if graph.has_edge(leaf, s)):
            ends = [drawing.switches[leaf], drawing.switches[spine]]
            drawing.line(ends, graph.edges[leaf, spine]["kind"], [(leaf, spine)])


def _row(drawing: Drawing, names: list[str], width: float, height: float) -> None:
    for index, name in enumerate(names):
        drawing.switches[name] = ((index + 0.5) * width / len(names), height)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in "".join(c if c.isdigit() else " " for c in name).split())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _torus(cluster: Cluster) -> Drawing:
    """The first slice in oblique projection; wrap-around links as stubs that leave the slice on both sides."""
    shape, slices = cluster.options["shape"], cluster.options.get("slices", 1)
    drawing = Drawing(note=f"one of {slices} equal slices" if slices > 1 else "")
    # Screen direction of each axis: the longest runs right, the next up, the shortest into the page.
    by_length = np.argsort(shape, kind="stable")
    direction = np.empty((len(shape), 2))
    direction[by_length] = [(0.42, 0.27), (0.0, 1.0), (1.0, 0.0)][-len(shape) :]
    names = cluster.devices[: int(np.prod(shape))]
    coordinates = np.indices(shape).reshape(len(shape), -1).T
    places = coordinates @ direction
    drawing.devices = dict(zip(names, map(tuple, places.tolist()), strict=True))
    if len(shape) == 3:
        into = by_length[0]
        drawing.depth = (coordinates[:, into] / max(1, shape[into] - 1)).tolist()
    where = dict(zip(names, coordinates, strict=True))
    for a, b, kind in cluster.graph.subgraph(names).edges(data="kind"):
        step = where[b] - where[a]
        axis = int(np.flatnonzero(step)[0])
        if step[axis] == 1:
            drawing.line([drawing.devices[a], drawing.devices[b]], kind, [(a, b)])
        elif step[axis] > 1:  # a at the low end of a ring, b at its high end
            stub = 0.38 * direction[axis]
            for end, sign in ((a, -1), (b, 1)):
                x, y = drawing.devices[end]
                drawing.line([(x, y), (x + sign * stub[0], y + sign * stub[1])], kind, [(a, b)])
    return drawing


def _plain(cluster: Cluster) -> Drawing:
    """Any other graph, by a spring layout that is the same every time."""
    graph = cluster.graph.to_undirected()
    count = graph.number_of_nodes()
    if count > 1 and nx.is_connected(graph) and count <= 120:
        places = nx.kamada_kawai_layout(graph, scale=max(2.0, count**0.5), weight=None)
    else:
        places = nx.spring_layout(graph, seed=0, scale=max(2.0, count**0.5))
    drawing = Drawing()
    for name, kind in graph.nodes(data="kind"):
        (drawing.devices if kind == "device" else drawing.switches)[name] = tuple(places[name])
    for a, b, kind in graph.edges(data="kind"):
        drawing.line([tuple(places[a]), tuple(places[b])], kind, [(a, b)])
    return drawing
