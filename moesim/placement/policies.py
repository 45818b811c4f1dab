"""Placement policies: from expert loads to slots.

A policy is a function in `POLICIES`. moesim hands in the positional arguments: loads [layer, expert], the number of
expert-parallel ranks and the `Evidence`; the keyword-only ones are the keys that a scenario sets under ``placement:``.
A policy raises ValueError when the slots cannot hold the experts, or when it lacks evidence.
"""

from __future__ import annotations

from collections.abc import Callable

from moesim.placement.balance import eplb, greedy, replicate_hot
from moesim.placement.fixed import contiguous, random, round_robin
from moesim.placement.locality import affinity, topology_aware
from moesim.placement.optimum import optimal
from moesim.placement.placement import Placement

POLICIES: dict[str, Callable[..., Placement]] = {
    "contiguous": contiguous,
    "round_robin": round_robin,
    "random": random,
    "greedy": greedy,
    "replicate_hot": replicate_hot,
    "eplb": eplb,
    "affinity": affinity,
    "topology_aware": topology_aware,
    "optimal": optimal,
}
# Policies that look at loads: what they learn from is not replayed.
LEARNING = {"greedy", "replicate_hot", "eplb", "affinity", "topology_aware", "optimal"}
# Policies that give spare slots to the experts that need them; others gain nothing from more slots than experts.
REPLICATING = {"replicate_hot", "eplb", "affinity", "topology_aware", "optimal"}
# Policies that know which ranks share a server: their ranks may change places only inside one.
SERVER_AWARE = {"eplb", "affinity", "topology_aware"}
