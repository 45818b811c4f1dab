"""Collectives and messages as a step pays for them: the bytes on the network, and what the library adds to them.

The network knows what a collective loads each link with (`moesim.network.collectives`); the library's protocols add
starts, steps and the share of the rate that they reach (`moesim.cost.collective_kernels`). Inside one switched domain
the answer is the calibrated equation itself; elsewhere (several domains, tori, any graph) the equation's time for bytes
is scaled by how much longer this network takes for them, and steps between distant ranks pay the longer way.

A TPU's collectives are compiled into DMA transfers without protocols: 1 µs a step and 9e10 of 1e11 B/s a link ("How to
Scale Your Model", chapters 2 and 3).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.cost import cpu
from moesim.cost.calibration import candidates
from moesim.cost.collective_kernels import COLLECTIVE, LEAST_NVLS_RANKS, protocols, whole
from moesim.cost.family import Fit, default_fit, family_on
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.network import collectives
from moesim.network.routes import Network
from moesim.network.transfer import Transfer

# The tables' names of operations.
OPERATIONS = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall", "broadcast": "all_gather", "point_to_point": "alltoall",
}  # fmt: skip
_TPU = {
    "t0": 1e-6, "t_hop": 1e-6, "e_low": 0.9, "e_low_all_to_all": 0.9, "t_bulk": 1e-6, "t_bulk_hop": 1e-6,
    "e_bulk": 0.9, "e_bulk_all_to_all": 0.9, "c": 1e-3,
}  # fmt: skip


def collective(
    machine: Machine,
    network: Network,
    kind: str,
    ranks: np.ndarray,
    size: float,
    *,
    precision: Precision = PRECISIONS["bf16"],
    algorithm: str = "",
    fidelity: str = "coflow",
) -> Transfer:
    """A calibrated collective over equal groups.

    kind: ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``broadcast``. ranks: [members] or [groups, members].
    size: bytes of a rank's whole buffer. precision: of its elements (reduction in the switch needs 16 bits). algorithm:
    of the network, by default its own choice. Raises InvalidInput for an unknown kind, and as the network does.
    """
    builders = {k: getattr(collectives, k) for k in ("all_reduce", "all_gather", "reduce_scatter", "broadcast")}
    if kind not in builders:
        raise InvalidInput(f"collective {kind!r} is unknown; write one of {', '.join(builders)}")
    ranks = np.atleast_2d(ranks)
    options = {"algorithm": algorithm} if algorithm else {}
    plain = builders[kind](network, ranks, size, fidelity=fidelity, **options)
    return with_protocols(machine, network, plain, kind, ranks, size, precision, chosen=bool(algorithm))


def message(
    machine: Machine,
    network: Network,
    source: np.ndarray,
    target: np.ndarray,
    size: np.ndarray,
    *,
    fidelity: str = "coflow",
    name: str = "point_to_point",
) -> Transfer:
    """Calibrated messages of size [messages] bytes from source to target: pipeline hand-over, KV transfer."""
    plain = collectives.point_to_point(network, source, target, size, fidelity=fidelity, name=name)
    pairs = np.stack([np.atleast_1d(source), np.atleast_1d(target)], axis=1)
    # A message of n bytes loads a port as an all-to-all between two ranks with buffers of 2n does.
    largest = 2.0 * float(np.max(size, initial=0.0))
    return with_protocols(machine, network, plain, "point_to_point", pairs, largest, PRECISIONS["bf16"])


def with_protocols(
    machine: Machine,
    network: Network,
    plain: Transfer,
    kind: str,
    ranks: np.ndarray,
    size: float,
    precision: Precision,
    chosen: bool = False,
) -> Transfer:
    """The plain transfer of a network with the starts, steps and reached rates of a library's faster protocol.

    ranks: [groups, members]; size: bytes of a rank's buffer, for an all-to-all the largest of any rank. chosen: the
    network's algorithm was asked for, so its own steps count instead of those of the library's best.
    """
    members = ranks.shape[1]
    if members < 2 or plain.wire_s <= 0:
        return plain
    fit = library(machine, kind)
    device = machine.device
    if not device.scale_up_bytes_per_s:
        fastest = float(network.capacity.max())
        device = replace(device, scale_up_bytes_per_s=fastest)
    if device.kind == "cpu":
        volume = plain.wire_s * device.scale_up_bytes_per_s
        start, wire = cpu.sending(fit.parameters, OPERATIONS[kind] == "alltoall", plain.wire_s, volume)
        return replace(plain, wire_s=float(wire), latency_s=np.full(plain.ranks.size, float(start)))
    width = precision.bytes
    rows = {
        "ranks": np.array([members]), "message_elements": np.array([max(size, width) / (1 if width < 2 else 2)]),
        "op": np.array([OPERATIONS[kind]]), "dtype": np.array(["int8" if width < 2 else "bfloat16"]),
    }  # fmt: skip
    domains = network.domain[ranks]
    inside = network.switched and bool((domains == domains[:, :1]).all())
    parameters = dict(fit.parameters) | ({"c": 0.0} if kind == "point_to_point" else {})  # nothing stays on the rank
    found = protocols(device, rows, parameters, fit.choices, in_switch=inside and members >= LEAST_NVLS_RANKS)
    steps, far = _way(network, plain, kind, ranks, found.steps, chosen)
    if not inside or kind in ("all_to_all", "point_to_point"):
        stretch = plain.wire_s / float(found.ideal_s[0])
    else:  # reduced in the switch, which the plain algorithm does not: only slow links of this network count
        rates = network.capacity[plain.links]
        stretch = float(rates.max() / rates.min())
    low = (found.low_fixed_s(steps)[0] + far, found.low_wire_s[0] * stretch)
    bulk = (found.bulk_fixed_s(steps)[0] + far, found.bulk_wire_s[0] * stretch)
    choices = dict(fit.choices) | ({"host_bound": False} if machine.graphs else {})
    total = float(whole(np.array([sum(low)]), np.array([sum(bulk)]), fit.parameters, choices)[0])
    if device.kind == "tpu":  # no two protocols to choose from, and no corner between them
        total = float(sum(bulk))
    total = max(total, 0.0 if inside else plain.wire_s)
    wire = min(float(min(low, bulk, key=sum)[1]), total)
    return replace(plain, wire_s=wire, latency_s=np.full(plain.ranks.size, total - wire))


def _way(
    network: Network, plain: Transfer, kind: str, ranks: np.ndarray, steps: np.ndarray, chosen: bool
) -> tuple[np.ndarray, float]:
    """(steps between neighbours, seconds that leaving the neighbourhood adds)."""
    near = network.nearest_latency(ranks)
    slowest = float(plain.latency_s.max())
    if network.torus or chosen:
        taken = np.minimum(steps, slowest / near) if near > 0 else steps
        return taken, max(slowest - float(taken[0]) * near, 0.0)
    domains = len(np.unique(network.domain[ranks[0]]))
    crossings = np.ceil(np.log2(domains)) * (2 if kind == "all_reduce" else 1)
    return steps, float(crossings) * max(float(network.latency(ranks[0, :1], ranks[0, 1:]).max()) - near, 0.0)


def library(machine: Machine, kind: str) -> Fit:
    """The library that runs a collective: the stack's own all-reduce where it was measured, else NCCL."""
    fits = machine.fits.get(COLLECTIVE.name, ())
    if machine.device.kind == "tpu":
        plain = default_fit(family_on(COLLECTIVE, machine.device))
        return replace(plain, parameters=dict(plain.parameters) | _TPU)
    stack = (machine.software or "").split(" ")[0]
    launched = [f for f in fits if "eager" in f.key.get("kernel", "")]
    own = [f for f in fits if stack and f.key.get("software", "").startswith(stack)]
    replayed = [f for f in own if f not in launched]
    library = [f for f in fits if f.key.get("kernel", "").startswith("NCCL")]
    chosen = (replayed if machine.graphs else own) if kind == "all_reduce" else []
    pool = tuple(chosen or library or fits)
    if not pool:
        return default_fit(family_on(COLLECTIVE, machine.device))
    return candidates(pool, {"kernel": "eager" if not machine.graphs else None})[0]
