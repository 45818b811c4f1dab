"""The three fidelities of the network behind one interface.

How the pieces meet: a function of `moesim.network.collectives` prices one collective alone with ``finish`` and makes a
`Transfer`. While several transfers are on the wire, the engine asks ``rates(active, capacity)`` whenever one joins or
leaves, and continues the progress of each at the speed it gets: a transfer at speed 0.5 takes twice its ``wire_s`` from
there on. With one transfer alone the speed is 1 under every fidelity, so the engine need not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.network import bound, coflow, flow
from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Fidelity:
    """finish(network, source, target, traffic) → load [links] in bytes, seconds of each pair (see `bound.finish`).

    rates(active, capacity [links]) → speed [active] relative to being alone, in (0, 1].
    """

    name: str
    finish: Callable[..., tuple[np.ndarray, np.ndarray]]
    rates: Callable[[Sequence[Transfer], np.ndarray], np.ndarray]


FIDELITIES: dict[str, Fidelity] = {
    "bound": Fidelity("bound", bound.finish, bound.rates),
    "coflow": Fidelity("coflow", coflow.finish, coflow.rates),
    "flow": Fidelity("flow", flow.finish, flow.rates),
}
