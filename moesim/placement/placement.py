"""Which rank holds which experts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Expert slots of every rank, layer by layer.

    expert: [layer, rank, slot] logical expert in the slot; every expert stands in at least one, and one that stands in
    several is replicated. name: the policy that made it. experts: number of logical experts.
    choice: how a token picks a replica, a key of `moesim.placement.replicas.CHOICES`; seed: of choices that are drawn.
    bound: [layer] load that the hottest rank of no placement goes below, where the policy proved one.
    dead: ranks that are lost. Their slots serve nobody, except experts that stand nowhere else.
    """

    name: str
    expert: np.ndarray
    experts: int
    choice: str = "round_robin"
    seed: int = 0
    bound: np.ndarray | None = None
    dead: tuple[int, ...] = ()
    replicas: np.ndarray = field(init=False)  # [layer, expert] how many slots hold it
    slot_of: np.ndarray = field(
        init=False
    )  # [layer, expert, replica] slot (rank · slots + slot); repeats past the last

    def __post_init__(self):
        expert = self.expert.reshape(self.expert.shape[0], -1)
        serves = np.ones(expert.shape, dtype=bool)
        if self.dead:
            serves = (
                ~np.isin(np.arange(expert.shape[1]) // self.slots_per_rank, self.dead)
                | (only_on(self.expert, self.experts, self.dead)[np.arange(len(expert))[:, None], expert])
            )
        replicas, slot_of = _invert(expert, self.experts, serves)
        object.__setattr__(self, "replicas", replicas)
        object.__setattr__(self, "slot_of", slot_of)

    def rank_load(self, load: np.ndarray) -> np.ndarray:
        """Load [layer, rank] for loads [layer, expert] when replicas of an expert share its load evenly."""
        layer = np.arange(len(load))[:, None, None]
        return (load / self.replicas)[layer, self.expert].sum(axis=2)

    @property
    def ranks(self) -> int:
        """Ranks of one expert-parallel group."""
        return self.expert.shape[1]

    @property
    def slots_per_rank(self) -> int:
        """Expert slots of a rank, in each layer."""
        return self.expert.shape[2]


def only_on(expert: np.ndarray, experts: int, ranks: tuple[int, ...]) -> np.ndarray:
    """[layer, expert] whether an expert stands on these ranks only. expert: [layer, rank, slot]."""
    elsewhere = np.delete(expert, ranks, axis=1)
    found = np.zeros((len(expert), experts), dtype=bool)
    found[np.arange(len(expert))[:, None, None], elsewhere] = True
    return ~found


def _invert(expert: np.ndarray, experts: int, serves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From expert [layer, slot] to replica counts [layer, expert] and slots [layer, expert, most replicas].

    serves: [layer, slot] whether a slot counts.
    """
    layers = expert.shape[0]
    replicas = np.zeros((layers, experts), dtype=np.int32)
    np.add.at(replicas, (np.arange(layers)[:, None], expert), serves)
    if (replicas == 0).any():
        layer, missing = np.argwhere(replicas == 0)[0]
        raise ValueError(f"expert {missing} has no slot in layer {layer}")
    order = np.argsort(np.where(serves, expert, experts), axis=1, kind="stable")
    first = np.cumsum(replicas, axis=1) - replicas
    replica = np.arange(replicas.max()) % replicas[..., None]
    slot_of = np.take_along_axis(order[:, None, :], first[..., None] + replica, axis=2)
    return replicas, slot_of.astype(np.int32)
