"""A device together with the software stack that drives it: what every cost function takes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.cost.family import Fit
from moesim.hardware.device import Device


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and the calibrated kernels of one software stack on it.

    software: the stack that was asked for, e.g. ``trtllm``, or None for whichever the profile knows best.
    fits: ``{family: fits}`` of all stacks of the profile; the nearest one answers (`moesim.cost.calibration`).
    A family without fits answers with its stated defaults. origin: ``measured``, ``like NAME`` or ``defaults``; it
    travels with every result. graphs: kernels are replayed from graphs, so host launch times vanish.
    """

    device: Device
    software: str | None = None
    fits: Mapping[str, tuple[Fit, ...]] = field(default_factory=dict)
    origin: str = "defaults"
    graphs: bool = True
