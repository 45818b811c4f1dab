"""The ``placement:`` of a scenario: a policy with its own keys, and what every policy has besides."""

from __future__ import annotations

from typing import Literal

from moesim.placement.policies import POLICIES
from moesim.placement.replicas import CHOICES
from moesim.placement.sequences import ARRANGEMENTS
from moesim.spec.reading.kinds import Kind, kinds


class PlacementKind(Kind):
    """replica_choice: which replica of an expert serves a token. sequences: which sequences go to which rank."""

    replica_choice: Literal[tuple(CHOICES)] = "round_robin"
    sequences: Literal[tuple(ARRANGEMENTS)] = "as_drawn"


PlacementOptions = kinds(POLICIES, base=PlacementKind)
