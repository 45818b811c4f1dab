"""Tori of TPU chips: shapes that the product offers, and which axes wrap.

TPU v4 and v5p join cubes of 4x4x4 chips by optical circuit switches, so that a slice of whole cubes wraps on every axis
and the choice of shape is the choice of circuits; smaller slices are meshes (Google Cloud TPU v4 and v5p pages).
TPU v5e and v6e are 16x16 tori of which a slice keeps the wrap only on an axis of the full 16 ("How to Scale Your
Model", chapter 2).

Slices of k x k x 2k and k x 2k x 2k whole cubes may be twisted (Google Cloud TPU v4 and v5p pages): the wrap-around of
a short axis also moves by k along the long ones, which gives more ways across the middle. These are the face-centred
and body-centred cubic lattices of Camarero, Martínez and Beivide, "Lattice graphs for high-scale interconnection
topologies", IEEE TPDS 2015. Messages spread evenly over all shortest paths, which static route tables come close to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from math import prod

import networkx as nx
import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.topology import Cluster, Link, connect, device_names

Shape = tuple[int, ...]


def torus(
    hardware: Hardware,
    devices: int,
    *,
    pod: Sequence[int],
    host: Sequence[int],
    link: Link,
    shapes: Sequence[Sequence[int]] = (),
    cube: int | None = None,
    wrap_length: int | None = None,
    largest_slice: int | None = None,
    nic: Link | None = None,
    shape: Sequence[int] | None = None,
    slices: int = 1,
    ties: str = "split",
    twisted: bool = False,
) -> Cluster:
    """A slice of a pod, or several that do not share links.

    pod: chips of the pod along each axis. host: chips of one host along each axis. link: to one neighbour, one way, and
    seconds of one hop. shapes: slices offered by name. cube: slices of whole cubes of this edge are offered too and
    wrap on every axis. wrap_length: an axis of this length wraps. largest_slice: chips. nic: one chip's share of the
    data-centre network, one way, and seconds from chip to chip through it.

    shape: what the job asks for, by default the most compact one of ``devices / slices`` chips. slices: equal slices of
    that shape. ties: opposite nodes of an even ring are reached ``split`` both ways or ``one_way`` (the positive one).
    twisted: wrap-arounds of short axes move along the long ones too.

    Routing is ``dimension_order`` (``shortest`` for one chip and for twisted slices of some hundred chips); its options
    are ``shape``, ``wrap`` (a bool an axis), ``ties`` and ``slices``. With ``chips = prod(shape)``, rank r stands in
    slice ``r // chips`` at
    ``np.unravel_index(r % chips, shape)``: the last axis runs fastest. Slices are joined at the switch ``dcn`` if the
    profile has a nic; traffic between them leaves by the chip's nic.
    """
    offered = sorted(set(_offered(tuple(pod), shapes, cube, largest_slice)), key=lambda s: (prod(s), _stretch(s), s))
    chosen = _choose(hardware, devices, tuple(shape) if shape else None, slices, offered, prod(pod))
    whole_cubes = cube is not None and all(length % cube == 0 for length in chosen)
    wrap = tuple(length > 2 and (whole_cubes or length == wrap_length) for length in chosen)
    if twisted and not (whole_cubes and _twistable(chosen)):
        message = f"{_text(chosen)} cannot be twisted; of whole cubes, write k x k x 2k or k x 2k x 2k, e.g. 4x4x8"
        raise InvalidInput(Problem(message, "options.twisted"))

    names = device_names(devices)
    graph = nx.DiGraph()
    graph.add_nodes_from(names, kind="device")
    chips = prod(chosen)
    for first in range(0, devices, chips):
        connect(graph, _neighbours(names[first : first + chips], chosen, wrap, twisted), link, "ici")
    if slices > 1 and nic is not None:
        _add_dcn(graph, names, nic)

    rank = np.arange(devices)
    node = _hosts(chosen, tuple(host))
    hosts = int(node.max()) + 1
    options = {"shape": chosen, "wrap": wrap, "ties": ties, "slices": slices}
    label = _text(chosen) + (" twisted" if twisted else "") + (f" x {slices} slices" if slices > 1 else "")
    return Cluster(
        f"{hardware.name} {label}",
        hardware,
        graph,
        tuple(names),
        np.tile(node, slices) + hosts * (rank // chips),
        rank // chips,
        "dimension_order" if chips > 1 and not twisted else "shortest",
        options,
    )


def _offered(
    pod: Shape, shapes: Sequence[Sequence[int]], cube: int | None, largest_slice: int | None
) -> Iterator[Shape]:
    """Every shape that the product offers, in one order of its axes."""
    yield from map(tuple, shapes)
    if cube is None:
        return
    room = sorted(pod)
    for shape in combinations_with_replacement(range(cube, room[-1] + 1, cube), len(pod)):
        fits = all(length <= limit for length, limit in zip(shape, room, strict=True))
        if fits and (largest_slice is None or prod(shape) <= largest_slice):
            yield shape


def _choose(
    hardware: Hardware, devices: int, shape: Shape | None, slices: int, offered: list[Shape], pod_chips: int
) -> Shape:
    if slices < 1:
        raise InvalidInput(Problem(f"{slices} slices; write 1 or more", "options.slices"))
    if devices > pod_chips:
        raise InvalidInput(Problem(f"{devices} chips; a pod of {hardware.name} has {pod_chips}", "devices"))
    if shape is not None:
        if sorted(shape) not in map(sorted, offered):
            near = sorted(offered, key=lambda s: abs(prod(s) - prod(shape)))[:4]
            message = f"{hardware.name} offers no slice {_text(shape)}; nearest: {', '.join(map(_text, near))}"
            raise InvalidInput(Problem(message, "options.shape"))
        if prod(shape) * slices != devices:
            right = f"{slices} x {_text(shape)} is {prod(shape) * slices} chips, not {devices}"
            raise InvalidInput(Problem(right, "devices"))
        return shape
    fitting = [candidate for candidate in offered if prod(candidate) * slices == devices]
    if fitting:
        return fitting[0]
    sizes = sorted({prod(candidate) * slices for candidate in offered})
    below = [size for size in sizes if size < devices][-2:]
    above = [size for size in sizes if size > devices][:2]
    near = [f"{size} ({_text(s)})" for size in below + above for s in offered if prod(s) * slices == size]
    slice_text = f"{slices} equal slices" if slices > 1 else "one slice"
    message = f"{hardware.name} offers no {devices} chips as {slice_text}; nearest: {', '.join(near)}"
    raise InvalidInput(Problem(message, "devices"))


def _neighbours(names: list[str], shape: Shape, wrap: tuple[bool, ...], twisted: bool) -> Iterator[tuple[str, str]]:
    """Each pair of neighbours once."""
    grid, short = np.arange(prod(shape)).reshape(shape), min(shape)
    for axis, wraps in enumerate(wrap):
        line = np.moveaxis(grid, axis, 0)
        pairs = [(line[:-1], line[1:])]
        if wraps:
            others = [length for other, length in enumerate(shape) if other != axis]
            long = [i for i, length in enumerate(others) if length > shape[axis] == short] if twisted else []
            pairs.append((line[-1], np.roll(line[0], [-short] * len(long), axis=long)))
        for here, there in pairs:
            yield from (
                (names[a], names[b]) for a, b in zip(here.ravel().tolist(), there.ravel().tolist(), strict=True)
            )


def _twistable(shape: Shape) -> bool:
    """Whether a shape is k x k x 2k or k x 2k x 2k."""
    return len(shape) == 3 and set(shape) == {min(shape), 2 * min(shape)}


def _add_dcn(graph: nx.DiGraph, names: list[str], nic: Link) -> None:
    """Every chip on one switch: the network between slices is taken as non-blocking. Latency is shared by four hops."""
    nics = [f"nic{rank}" for rank in range(len(names))]
    graph.add_nodes_from(nics, kind="nic")
    graph.add_node("dcn", kind="switch")
    hop = Link(nic.bytes_per_s, nic.latency_s / 4)
    connect(graph, zip(names, nics, strict=True), hop, "pcie")
    connect(graph, ((name, "dcn") for name in nics), hop, "ethernet")


def _hosts(shape: Shape, host: Shape) -> np.ndarray:
    """Host index of each chip of a slice; hosts are blocks of chips, cut off at the edge of a small slice."""
    coordinates = np.indices(shape).reshape(len(shape), -1)
    block = [c // length for c, length in zip(coordinates, host, strict=True)]
    blocks = [-(-length // edge) for length, edge in zip(shape, host, strict=True)]
    return np.ravel_multi_index(block, blocks)


def _stretch(shape: Shape) -> float:
    """How far from a cube: the longest axis over the shortest."""
    return max(shape) / min(shape)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
