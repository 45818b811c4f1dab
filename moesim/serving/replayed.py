"""Loads of experts from a trace: windows of its tokens on the slots where the placement has their experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from moesim.placement.traffic import choose_slots
from moesim.routing.replay import Routes
from moesim.serving.grids import TOKENS
from moesim.workload.deployment import Deployment

WINDOWS = 16
_PROMPT_WINDOWS = 4  # steps that hold prompts take their mean
_COUNTED = 4096  # tokens of the largest step that is counted; loads of larger ones are as uneven


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedLoads:
    """A `moesim.serving.expert_tables.ExpertLoads` of a trace: the windows of a batch size follow one another.

    decode: routes of many sequences' next tokens, of which a decode step takes some. prompts: the same of tokens that
    stand one behind the other in their prompts, for steps that hold prompts. Both come from the trace under the
    scenario's placement, over its attention-DP ranks.
    """

    decode: Routes
    prompts: Routes
    windows: int = WINDOWS
    changing = True

    def pairs(self, phase: str, deployment: Deployment, rows: tuple[int, ...]) -> np.ndarray:
        """As `ExpertLoads` says, each layer its own. A window's larger steps hold the tokens of its smaller ones."""
        pool, placement = self.decode if phase == "decode" else self.prompts, deployment.placement
        windows = self.windows if phase == "decode" else min(self.windows, _PROMPT_WINDOWS)
        shape = (TOKENS.size, windows, len(rows), placement.ranks, placement.slots_per_rank)
        found = np.empty(shape, dtype=np.float32)
        counted = TOKENS <= _COUNTED
        slots = _Slots(deployment, pool, rows)
        for window in range(windows):
            tokens = dealt_window(pool.offsets, _COUNTED, window / windows)
            for size, counts in enumerate(slots.counts(tokens, TOKENS[counted])):
                found[size, window] = counts.reshape(shape[2:])
        largest = int(np.flatnonzero(counted)[-1])
        found[~counted] = found[largest] * (TOKENS[~counted] / TOKENS[largest])[:, None, None, None, None]
        return found


class _Slots:
    """Slots that serve a pool's tokens in some MoE layers.

    Replicas are chosen once for the whole pool where a choice looks at its own token alone, and else for each step.
    """

    def __init__(self, deployment: Deployment, pool: Routes, rows: tuple[int, ...]):
        placement = deployment.placement
        self._deployment, self._pool, self._rows = deployment, pool, rows
        self._slots = placement.ranks * placement.slots_per_rank
        each_step = placement.choice == "least_loaded" and placement.slot_of.shape[2] > 1
        self._chosen = None if each_step else self._choose(np.arange(pool.offsets[-1]))

    def counts(self, tokens: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
        """Pairs [row · slot] of steps of the first so many tokens, sizes in rising order."""
        done, sofar = 0, 0
        for size in sizes.tolist():
            if self._chosen is None:
                yield self._count(self._choose(tokens[:size]))
            else:
                sofar = sofar + self._count(np.take(self._chosen, tokens[done:size], axis=1))
                done = size
                yield sofar

    def _count(self, chosen: np.ndarray) -> np.ndarray:
        size = len(self._rows) * self._slots
        return np.bincount(chosen.ravel(), minlength=size + 1)[:size]

    def _choose(self, tokens: np.ndarray) -> np.ndarray:
        """Slots [row, token, k] counted through all rows; one behind the last where a choice does not hold."""
        pool, degrees = self._pool, self._deployment.parallelism
        replica = np.searchsorted(pool.offsets, tokens, side="right") - 1
        part = (tokens - pool.offsets[replica]) % degrees.tp
        source = degrees.grid[0, replica, 0, part] // degrees.expert_tp
        node = self._deployment.cluster.node[: degrees.devices : degrees.expert_tp]
        found = np.empty((len(self._rows), tokens.size, pool.ids.shape[2]), dtype=np.int32)
        for place, row in enumerate(self._rows):
            ids = pool.ids[row, tokens]
            held = None if pool.count is None else np.arange(ids.shape[1]) < pool.count[row, tokens][:, None]
            found[place] = choose_slots(self._deployment.placement, row, ids, source, node, held) + place * self._slots
            if held is not None:
                found[place][~held] = len(self._rows) * self._slots
        return found


def window_of(pool: Routes, tokens: int, window: int) -> Routes:
    """So many tokens of every rank from the pool: each rank reads its own stretch, and windows follow one another."""
    begins, length = pool.offsets[:-1], np.diff(pool.offsets)
    places = (window * tokens + np.arange(tokens))[None, :] % length[:, None]
    chosen = (begins[:, None] + places).reshape(-1)
    count = None if pool.count is None else pool.count[:, chosen]
    offsets = np.arange(len(begins) + 1) * tokens
    return replace(pool, ids=pool.ids[:, chosen], count=count, offsets=offsets, tokens=pool.tokens[:, chosen])


def dealt_window(offsets: np.ndarray, tokens: int, begin: float) -> np.ndarray:
    """So many tokens of a pool with offsets [ranks + 1], dealt out to its ranks in turn, each rank's from the place at
    `begin` (a fraction) of its tokens on."""
    ranks, turn = len(offsets) - 1, np.arange(tokens)
    whole = np.diff(offsets)
    rank = turn % ranks
    return offsets[rank] + ((begin * whole).astype(int)[rank] + turn // ranks) % whole[rank]
