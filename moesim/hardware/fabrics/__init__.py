"""Builders of clusters, one fabric a function: ``(hardware, devices, *, …) -> Cluster``.

`FABRICS` is keyed by the profile's ``topology.kind``; the keyword arguments are the other keys of that block. To add a
fabric, write a function and add it here. Graph nodes carry the names that all fabrics share: ``device{rank}``,
``nvlink{domain}.{plane}``, ``nic{rank}``, ``leaf{unit}.{rail}``, ``spine{i}``, ``pcie{node}``, ``dcn``.
"""

from __future__ import annotations

from moesim.hardware.fabrics.build import Degraded, build_cluster
from moesim.hardware.fabrics.custom import Wire, custom, unjoined
from moesim.hardware.fabrics.scale_out import ScaleOut
from moesim.hardware.fabrics.scale_up import full_mesh, nvlink, pcie, single
from moesim.hardware.fabrics.torus import torus

FABRICS = {"nvlink": nvlink, "full_mesh": full_mesh, "pcie": pcie, "torus": torus, "single": single, "custom": custom}

__all__ = ["FABRICS", "Degraded", "ScaleOut", "Wire", "build_cluster", "unjoined"]
