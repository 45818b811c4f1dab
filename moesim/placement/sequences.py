"""Which sequences go to which rank: placement of data beside that of experts.

The *places* of a step are the sequences of its batch, in the order of their ranks; an arrangement says which drawn
sequence takes which place. It changes where tokens come from, never what they choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The drawn sequences of a step.

    sequence: [place] sequence of the trace that was drawn. label: [place] number of its label (0 without labels).
    rank: [place] attention replica of each place, rising. server: [place] server of that replica.
    liking: [trace sequence, server] expected share of a sequence's choices that the server's experts take.
    """

    sequence: np.ndarray
    label: np.ndarray
    rank: np.ndarray
    server: np.ndarray
    liking: np.ndarray


def as_drawn(batch: Batch) -> np.ndarray:
    """Leave sequences where the replay drew them."""
    return np.arange(len(batch.sequence))


def round_robin(batch: Batch) -> np.ndarray:
    """Deal sequences out in turn, label by label, so that every rank serves the same mixture."""
    first = np.flatnonzero(np.diff(batch.rank, prepend=-1))
    turn = np.arange(len(batch.rank)) - first[np.searchsorted(batch.rank[first], batch.rank)]
    places = np.lexsort((batch.rank, turn))
    chosen = np.empty(len(places), dtype=np.int64)
    chosen[places] = np.lexsort((batch.sequence, batch.label))
    return chosen


def by_label(batch: Batch) -> np.ndarray:
    """Sequences of one label (a domain, a tenant) sit together on consecutive ranks."""
    return np.lexsort((batch.sequence, batch.label))


def affinity(batch: Batch) -> np.ndarray:
    """Sequences go to the server that holds most of the experts they choose, as far as each server has room.

    Those that lose most elsewhere choose first. What a sequence chooses is known from its earlier tokens.
    """
    servers, room = np.unique(batch.server, return_counts=True)
    liking = batch.liking[:, servers]
    spread = np.sort(liking, axis=1)
    regret = spread[:, -1] - spread[:, :-1].mean(axis=1) if len(servers) > 1 else spread[:, 0]
    waiting: list[list[np.ndarray]] = [[] for _ in servers]
    by_sequence = np.argsort(batch.sequence, kind="stable")
    names, first, counts = np.unique(batch.sequence[by_sequence], return_index=True, return_counts=True)
    for which in np.argsort(-regret[names], kind="stable"):
        drawn = by_sequence[first[which] : first[which] + counts[which]]
        for server in np.argsort(-liking[names[which]], kind="stable"):
            taken, drawn = drawn[: room[server]], drawn[room[server] :]
            waiting[server].append(taken)
            room[server] -= len(taken)
            if not len(drawn):
                break
    chosen = np.empty(len(batch.sequence), dtype=np.int64)
    for server, drawn in zip(servers, waiting, strict=True):
        chosen[batch.server == server] = np.concatenate(drawn)
    return chosen


ARRANGEMENTS: dict[str, Callable[[Batch], np.ndarray]] = {
    "as_drawn": as_drawn,
    "round_robin": round_robin,
    "by_label": by_label,
    "affinity": affinity,
}
