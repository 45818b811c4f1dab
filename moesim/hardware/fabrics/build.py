"""From a profile and a size to a cluster: the only door to the builders."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

import networkx as nx

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics.scale_out import ScaleOut
from moesim.hardware.topology import Cluster


@dataclass(frozen=True, slots=True)
class Degraded:
    """A part that is not whole. node: a graph node that is down, with all its links; or between: the two ends of a link
    of which `remaining` (0 = dead) of the capacity is left, both ways.
    """

    node: str = ""
    between: tuple[str, str] = ("", "")
    remaining: float = 0.0


# What a job decides about a fabric; other arguments of a builder are facts of the product.
OF_THE_JOB = ("shape", "slices", "ties", "twisted", "oversubscription", "spines", "spreading", "forwarding")


def build_cluster(
    hardware: Hardware,
    devices: int,
    *,
    degraded: Iterable[Degraded] = (),
    routing: str | None = None,
    **choices: object,
) -> Cluster:
    """The cluster of `devices` devices on the fabric of a profile.

    degraded: parts that are down or slow. routing: instead of the fabric's own; ``shortest`` finds ways round any dead
    link. choices: arguments of the fabric that the job decides or overrides: ``shape`` and ``slices`` of a torus,
    ``oversubscription``, ``spines``, ``spreading`` … of the network between servers.

    Raises InvalidInput for a size that the topology cannot have (naming the nearest), an unknown choice, and parts so
    degraded that some device is cut off. Its fields are those of a scenario's cluster: ``devices``, ``options.shape`` …
    """
    from moesim.hardware.fabrics import FABRICS

    arguments = dict(hardware.topology)
    builder = FABRICS[arguments.pop("kind")]
    cluster = builder(hardware, devices, **_with_choices(builder, arguments, choices, hardware))
    degraded = tuple(degraded)
    if degraded:
        cluster = replace(cluster, graph=_degrade(cluster, degraded))
    return replace(cluster, routing=routing) if routing else cluster


def _with_choices(builder: object, arguments: dict, choices: Mapping[str, object], hardware: Hardware) -> dict:
    own = set(inspect.signature(builder).parameters) - {"hardware", "devices"}
    between = {field.name for field in fields(ScaleOut)} if "scale_out" in own else set()
    problems = []
    for name, value in choices.items():
        if name in own:
            arguments[name] = value
        elif name in between and arguments.get("scale_out") is None:
            problems.append(Problem(f"{hardware.name} has no network between servers to change", f"options.{name}"))
        elif name in between:
            arguments["scale_out"] = replace(arguments["scale_out"], **{name: value})
        else:
            joined = between if arguments.get("scale_out") is not None else set()
            known = [choice for choice in OF_THE_JOB if choice in own | joined] + ["degraded", "routing"]
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            problems.append(
                Problem(f"is no choice of the fabric {hardware.topology['kind']!r}; {hint}", f"options.{name}")
            )
    if problems:
        raise InvalidInput(problems)
    return arguments


def _degrade(cluster: Cluster, degraded: tuple[Degraded, ...]) -> nx.DiGraph:
    graph = cluster.graph.copy()
    problems = []
    for index, part in enumerate(degraded):
        field = f"options.degraded.{index}"
        a, b = part.between
        if part.node and part.node in cluster.devices:
            problems.append(Problem(f"{part.node} is a rank of the job; leave it out of the job instead", field))
        elif part.node and part.node not in graph:
            problems.append(Problem(f"the graph has no node {part.node!r}", field))
        elif part.node:
            graph.remove_node(part.node)
        elif not (graph.has_edge(a, b) or graph.has_edge(b, a)):
            problems.append(Problem(f"the graph has no link between {a!r} and {b!r}", field))
        elif not 0 <= part.remaining <= 1:
            problems.append(Problem(f"{part.remaining} is no share of a capacity; write 0 to 1", f"{field}.remaining"))
        else:
            for edge in (edge for edge in ((a, b), (b, a)) if graph.has_edge(*edge)):
                graph.edges[edge]["capacity"] *= part.remaining
                if part.remaining == 0:
                    graph.remove_edge(*edge)
    pieces = _reaching_each_other(graph, cluster.devices) - _reaching_each_other(cluster.graph, cluster.devices)
    if pieces and not problems:
        lost = min(min(pieces, key=len), key=cluster.devices.index)
        message = f"leaves no path between {lost} and the rest; leave it out of the job"
        problems.append(Problem(message, "options.degraded"))
    if problems:
        raise InvalidInput(problems)
    return graph


def _reaching_each_other(graph: nx.DiGraph, devices: tuple[str, ...]) -> set[frozenset[str]]:
    """Sets of devices that can all send to each other (slices of a torus need not reach other slices)."""
    known = set(devices)
    return {frozenset(known & component) for component in nx.strongly_connected_components(graph)} - {frozenset()}
