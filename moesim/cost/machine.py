"""A device together with the software stack that drives it: what every cost function takes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesim.hardware.device import Device


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and the calibrated parameters of one software stack on it.

    parameters: ``{family: {kernel key: {parameter: value}}}`` for the families ``gemm``, ``experts``, ``attention``,
    ``mla``, ``memory`` (element-wise) and ``launch``. origin: ``measured``, ``like NAME`` or ``defaults``; it travels
    with every result.
    """

    device: Device
    software: str
    parameters: Mapping[str, Mapping[str, Mapping[str, float]]]
    origin: str
