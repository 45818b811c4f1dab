"""What a job does when devices die. Each policy says what stops, what is lost and how fast the rest goes on.

A policy is a function in `RECOVERIES`; its keyword-only arguments are the keys that a file sets under ``recovery:``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Response:
    """Answer to one failure.

    waits: the job stands until the lost nodes are replaced. rolls_back: it goes on from the last safe checkpoint.
    stop_s: it stands after detection, beside waiting and loading. slowdown: of the step until the nodes are back.
    dropped: share of token-expert pairs that no expert computes until then. rejoin_s: it stands when they come back.
    """

    waits: bool
    rolls_back: bool
    stop_s: float
    slowdown: float = 1.0
    dropped: float = 0.0
    rejoin_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What one failure takes. devices: lost now, those of earlier failures that are not back included. of: the job's
    devices. slowdown, dropped: of the step without one rank, as the engine measured them (NaN where it was not)."""

    devices: int
    of: int
    slowdown: float = float("nan")
    dropped: float = 0.0


def restart(loss: Loss, *, restart_s: float) -> Response:
    """Stop, wait for the nodes (a spare, or the repair), load the last checkpoint and compute the lost steps again."""
    return Response(waits=True, rolls_back=True, stop_s=restart_s)


def shrink(loss: Loss, *, restart_s: float, replica_devices: int) -> Response:
    """Restart at once with fewer data-parallel replicas, each as many devices as `replica_devices`; grow when they
    come back. The global batch stays, so the step takes R/(R − lost) times as long."""
    replicas = loss.of // replica_devices
    left = replicas - -(-loss.devices // replica_devices)
    if left < 1:
        return restart(loss, restart_s=restart_s)
    return Response(False, True, restart_s, replicas / left, rejoin_s=restart_s)


def reroute(loss: Loss, *, restart_s: float, regroup_s: float, survives: int = 1) -> Response:
    """Go on without the lost ranks: their experts' tokens go to replicas, experts without one are loaded into spare
    slots while the group re-forms (`regroup_s`). More than `survives` devices lost at once: as ``restart``."""
    if loss.devices > survives:
        return restart(loss, restart_s=restart_s)
    return Response(False, False, regroup_s, loss.slowdown, rejoin_s=regroup_s)


def drop(loss: Loss, *, restart_s: float, regroup_s: float, survives: int = 1) -> Response:
    """Go on without the lost ranks and without the experts that only they held: their token-expert pairs are dropped.
    More than `survives` devices lost at once: as ``restart``."""
    if loss.devices > survives:
        return restart(loss, restart_s=restart_s)
    return Response(False, False, regroup_s, loss.slowdown, loss.dropped, rejoin_s=regroup_s)


RECOVERIES: dict[str, Callable[..., Response]] = {
    "restart": restart,
    "shrink": shrink,
    "reroute": reroute,
    "drop": drop,
}
