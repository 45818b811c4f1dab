"""Exchanges cut by hooks: what SMs do before and after the wire, and the flight in between, which needs none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.exchange import Exchange
from moesim.cost.machine import Machine
from moesim.cost.memory import memory_bound
from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True, eq=False)
class Hooked:
    """An exchange cut by its hooks.

    send_s, receive_s: [members] seconds in which a rank's SMs pack tokens before and unpack them after the wire.
    flight: the rest of the exchange, which needs no SM. compute_share: what its HBM traffic takes of compute.
    """

    send_s: np.ndarray
    flight: Transfer
    receive_s: np.ndarray
    compute_share: float


def hooked(machine: Machine, priced: Exchange) -> Hooked | None:
    """Cut an exchange into send, flight and receive; None where its kernel has no hooks.

    DeepEP's low-latency kernels with ``return_recv_hook`` return once tokens are packed and handed to the NIC; the
    second half, called when the tokens are needed, unpacks them. Both stream every copy through HBM once (read and
    write), at the rate of a streaming kernel. Together the three take as long as the exchange in one piece, unless it
    is shorter than its two kernels.
    """
    if priced.packed_bytes is None:
        return None
    send, receive = (memory_bound(machine, moved).seconds for moved in priced.packed_bytes)
    latency = np.maximum(priced.transfer.latency_s - send - receive, 0.0)
    flight = replace(priced.transfer, latency_s=latency)
    moved = priced.transfer.sent + priced.transfer.received
    rate = np.max(moved / np.maximum(flight.alone_s, 1e-12), initial=0.0)
    return Hooked(send, flight, receive, float(min(rate / machine.device.hbm_bytes_per_s, 0.95)))
