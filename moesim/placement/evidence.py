"""What a placement policy may know besides expert loads: the cluster it places on, and a sample of choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moesim.placement.traffic import LEVELS


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Facts of the cluster and of the tokens that a policy learns from.

    node: [rank] server of each expert-parallel rank. groups: routing groups of contiguous experts.
    sample: function of the layer that gives choices [token, k] of a sample of tokens; the number of experts stands
    where a token has fewer. None where only loads are known; policies that need it say so.
    source: [token] server that holds each token of the sample, None when every server holds a like share of all.
    level: of the dispatch kernel, one of `moesim.placement.traffic.LEVELS`.
    toll: [server · ranks + rank, link] scipy CSR: seconds that one token copy from the average rank of a server to a
    rank, and its answer, keep each link busy; None where it was not asked for. seed: of policies that draw.
    """

    node: np.ndarray
    groups: int = 1
    sample: Callable[[int], np.ndarray] | None = None
    source: np.ndarray | None = None
    level: str = "expert"
    toll: object | None = field(default=None, repr=False)
    seed: int = 0

    def __post_init__(self):
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r} is not one of {', '.join(LEVELS)}")

    @property
    def servers(self) -> list[np.ndarray]:
        """Ranks of each server, in the order of the servers."""
        return [np.flatnonzero(self.node == server) for server in np.unique(self.node)]


def one_server(ranks: int) -> Evidence:
    """The evidence of a policy that was told nothing: all ranks in one server."""
    return Evidence(np.zeros(ranks, dtype=int))
