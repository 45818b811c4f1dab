"""Where offloaded experts wait, and how long a copy of one takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import Infeasible, InvalidInput, Problem
from moesim.hardware.device import Hardware, MemoryTier
from moesim.units import format_bytes

_FACTS = {"capacity_bytes": "capacity", "bytes_per_s": "bandwidth", "latency_s": "latency"}
_EXAMPLES = {"capacity": "2 TB", "bandwidth": "63 GB/s", "latency": "6 us"}


def tiers_of(hardware: Hardware, names: tuple[str, ...]) -> tuple[MemoryTier, ...]:
    """The named tiers of a profile. Raises InvalidInput for every one that is not there or lacks a fact."""
    known = {tier.name: tier for tier in hardware.memory_tiers}
    problems = []
    for place, name in enumerate(names):
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            problems.append(Problem(f"{hardware.name} has no memory tier {name!r}; {there}", f"tiers.{place}"))
            continue
        for fact, key in _FACTS.items():
            if getattr(known[name], fact) is None:
                wanted = f"memory_tiers.{name}.{key}"
                problems.append(
                    Problem(
                        f"the profile of {hardware.name} does not state {wanted}; write it there, e.g. "
                        f"'{key}: {_EXAMPLES[key]}', or use another tier",
                        f"tiers.{place}",
                    )
                )
    if problems:
        raise InvalidInput(problems)
    return tuple(known[name] for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class Homes:
    """Where every expert waits.

    tiers: nearest first. home: [layer, rank, slot] index of its tier. expert_bytes: [layer] of one expert as a rank
    holds it. held: [tier] bytes that all ranks together keep there.
    """

    tiers: tuple[MemoryTier, ...]
    home: np.ndarray
    expert_bytes: np.ndarray
    held: tuple[float, ...]


def fill_tiers(tiers: tuple[MemoryTier, ...], popularity: np.ndarray, expert_bytes: np.ndarray, copies: int) -> Homes:
    """Put every expert into a tier: each rank's most popular ones into the nearest until its share of that is full.

    popularity: [layer, rank, slot]. expert_bytes: [layer]. copies: ranks that hold a part of each expert.
    Every expert has its home in a tier, those in HBM too: weights are never written back, only dropped.
    Raises Infeasible, saying by how many bytes, when the tiers cannot hold the experts.
    """
    layers, ranks, slots = popularity.shape
    size = np.repeat(expert_bytes, slots)  # of one rank's experts, layer by layer
    home = np.zeros((ranks, layers * slots), dtype=np.int64)
    room = [tier.capacity_bytes / tier.devices for tier in tiers]
    for rank in range(ranks):
        order = np.argsort(-popularity[:, rank].reshape(-1), kind="stable")
        filled = np.cumsum(size[order])
        home[rank, order] = np.searchsorted(np.cumsum(room), filled, side="left")
    if (home >= len(tiers)).any():
        need, has = float(size.sum()), float(sum(room))
        raise Infeasible(
            f"does not fit: a rank's experts take {format_bytes(need)}, its share of "
            f"{' + '.join(tier.name for tier in tiers)} is {format_bytes(has)}, {need - has:.0f} bytes too few; add a "
            "tier, use more devices or a narrower precision"
        )
    held = tuple(copies * float((size * (home == tier)).sum()) for tier in range(len(tiers)))
    return Homes(tiers, home.reshape(ranks, layers, slots).swapaxes(0, 1), expert_bytes, held)


def copy_seconds(homes: Homes, moved: np.ndarray) -> np.ndarray:
    """Seconds [step, layer, rank] in which a rank's copy engine brings the moved experts [step, layer, rank, slot].

    One after another: Σ over tiers of n·latency + max(n·bytes/bandwidth, bytes of all ranks that share the tier /
    shared bandwidth). Ranks share a tier with their neighbours in rank order.
    """
    seconds = np.zeros(moved.shape[:-1])
    for number, tier in enumerate(homes.tiers):
        count = (moved & (homes.home == number)).sum(axis=-1)
        size = count * homes.expert_bytes[:, None]
        wire = size / tier.bytes_per_s
        if tier.shared_bytes_per_s is not None:
            group = np.arange(moved.shape[2]) // tier.devices
            together = np.stack([size[..., group == g].sum(axis=-1) for g in range(group.max() + 1)], axis=-1)
            wire = np.maximum(wire, together[..., group] / tier.shared_bytes_per_s * (size > 0))
        seconds += count * tier.latency_s + wire
    return seconds
