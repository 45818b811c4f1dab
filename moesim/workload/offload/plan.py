"""What is copied into HBM, step by step: caches and predictors replayed on the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from moesim.placement.placement import Placement
from moesim.placement.traffic import choose_slots
from moesim.workload.offload.caches import CACHES, Residency, best_slots, replay_cache
from moesim.workload.offload.prefetch import PREFETCHES, Foresight, recall, wanted
from moesim.workload.offload.tiers import Homes, copy_seconds


@dataclass(frozen=True, slots=True)
class OffloadPolicy:
    """How experts come and go.

    cache, prefetch: keys of `CACHES` and `PREFETCHES`, with their options. staging: experts that fit in the buffers
    into which copies for the next layer go.
    """

    cache: str
    prefetch: str
    staging: int
    cache_options: Mapping[str, object] = field(default_factory=dict)
    prefetch_options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All copies of a replay.

    tokens: [step, layer, rank, slot] token-expert pairs. residency: of the cache. prefetched: [step, layer, rank, slot]
    copied ahead of the layer. fetch_s, prefetch_s: [step, layer, rank] seconds of the copies on demand, and of those
    that are made ahead *for* the layer. recall: share of choices that the predictor knew; None without one.
    """

    tokens: np.ndarray
    residency: Residency
    prefetched: np.ndarray
    fetch_s: np.ndarray
    prefetch_s: np.ndarray
    homes: Homes
    recall: float | None

    @property
    def covered(self) -> np.ndarray:
        """Experts touched that were not in HBM but copied ahead."""
        return self.residency.misses & self.prefetched

    @property
    def fetched(self) -> np.ndarray:
        """Experts touched that are copied on demand."""
        return self.residency.misses & ~self.prefetched

    def moved_bytes(self) -> np.ndarray:
        """Bytes [step, layer, rank] copied into HBM, on demand or ahead."""
        copies = (self.fetched | self.prefetched).sum(axis=-1)
        return copies * self.homes.expert_bytes[:, None]


def slot_tokens(placement: Placement, ids: np.ndarray) -> np.ndarray:
    """Token-expert pairs [layer, rank, slot] of a step's chosen experts [layer, token, k]."""
    slots = placement.ranks * placement.slots_per_rank
    count = [
        np.bincount(choose_slots(placement, layer, chosen).ravel(), minlength=slots) for layer, chosen in enumerate(ids)
    ]
    return np.stack(count).reshape(len(ids), placement.ranks, placement.slots_per_rank)


def slot_popularity(placement: Placement, load: np.ndarray) -> np.ndarray:
    """Share of its expert's load [layer, expert] that each slot [layer, rank, slot] gets."""
    layer = np.arange(load.shape[0])[:, None, None]
    return load[layer, placement.expert] / placement.replicas[layer, placement.expert]


def plan_copies(
    policy: OffloadPolicy, foresight: Foresight, popularity: np.ndarray, capacity: np.ndarray, homes: Homes
) -> Plan:
    """Replay a policy. popularity: [layer, rank, slot] in the earlier part of the trace. capacity: [layer] experts."""
    tokens = np.stack([slot_tokens(foresight.placement, ids) for ids in foresight.ids])
    residency = replay_cache(tokens > 0, popularity, capacity, CACHES[policy.cache], **policy.cache_options)
    guess: Callable[..., np.ndarray | None] = PREFETCHES[policy.prefetch]
    guesses = guess(foresight, **policy.prefetch_options)
    prefetched = np.zeros(tokens.shape, dtype=bool)
    if guesses is not None:
        demand = wanted(foresight.placement, guesses)
        prefetched = best_slots(demand, (demand > 0) & ~residency.resident, policy.staging)
        prefetched[:, 0] = False  # nothing has been routed before the first layer
    fetched = residency.misses & ~prefetched
    return Plan(
        tokens=tokens,
        residency=residency,
        prefetched=prefetched,
        fetch_s=copy_seconds(homes, fetched),
        prefetch_s=copy_seconds(homes, prefetched),
        homes=homes,
        recall=None if guesses is None else recall(foresight.ids, guesses),
    )


def spread_capacity(total: int, layers: int, slots: int) -> np.ndarray:
    """Experts [layer] that a rank keeps of each layer when it has room for so many in all: as even as can be, the
    first layers one more, never more than it has."""
    each, more = divmod(min(total, layers * slots), layers)
    return np.full(layers, each) + (np.arange(layers) < more)
