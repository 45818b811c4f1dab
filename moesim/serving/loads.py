"""Loads of experts where no trace is at hand: tokens [window, expert] of steps of any size, drawn once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.serving.grids import TOKENS
from moesim.workload.deployment import Deployment

WINDOWS = 16  # draws a batch size; each stands for a layer of a step
# Log standard deviation of the popularity of experts. Loads of served DeepSeek-R1 are nearly lognormal with 0.6-0.9
# (SGLang's published expert logs); their upper end is assumed for every model, because tokens of one batch resemble
# each other more than tokens of a whole log do. 0 is balanced routing.
REALISTIC_SIGMA = 0.9
_SEED = 7


@dataclass(frozen=True, slots=True)
class DrawnLoads:
    """A `moesim.serving.expert_tables.ExpertLoads` of drawn popularities: every layer of a step has a window of its
    own. sigma: their log standard deviation."""

    sigma: float = REALISTIC_SIGMA
    changing = False

    def pairs(self, phase: str, deployment: Deployment, rows: tuple[int, ...]) -> np.ndarray:
        """As `ExpertLoads` says: one row stands for all; experts lie on the ranks in order."""
        experts = deployment.model.layers[deployment.model.moe_layers[rows[0]]].experts
        loads = drawn_loads(TOKENS, experts.routed, experts.top_k, sigma=self.sigma)
        return loads.reshape(*loads.shape[:2], 1, deployment.parallelism.ep, -1)


def drawn_loads(
    tokens: np.ndarray, experts: int, top_k: int, *, sigma: float = REALISTIC_SIGMA, windows: int = WINDOWS
) -> np.ndarray:
    """Tokens [batch size, window, expert] of steps with so many tokens [batch size].

    Every window has its own popularities, lognormal with log standard deviation sigma, the same for all batch sizes. A
    token takes exactly k different experts, so none has more tokens than the step.
    """
    rng = np.random.default_rng(_SEED)
    popularity = np.exp(sigma * rng.standard_normal((windows, experts)))
    popularity /= popularity.sum(axis=1, keepdims=True)
    chance = _chances(popularity, top_k)
    sizes = np.asarray(tokens, dtype=np.int64)
    loads = np.empty((sizes.size, windows, experts))
    for row, size in enumerate(sizes):
        seeded = np.random.default_rng([_SEED, int(size)])
        loads[row] = seeded.binomial(size, chance)
        # A token takes exactly k experts: scale the drawn counts back, smallest steps by dropping or adding pairs.
        for window in range(windows):
            loads[row, window] = _exact(loads[row, window], size * top_k, size, chance[window], seeded)
    return loads


def _chances(popularity: np.ndarray, top_k: int) -> np.ndarray:
    """Chance [window, expert] that a token's k picks hold the expert, about proportional to popularity, at most 1."""
    chance = popularity * top_k
    for _ in range(8):
        over = chance > 1
        if not over.any():
            break
        chance = np.minimum(chance, 1)
        free = np.where(over, 0.0, chance)
        missing = top_k - chance.sum(axis=1, keepdims=True)
        chance = chance + free * missing / np.maximum(free.sum(axis=1, keepdims=True), 1e-12)
    return np.minimum(chance, 1)


def _exact(counts: np.ndarray, wanted: int, most: int, chance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts whose sum is `wanted`, none above `most`: pairs are added or removed at random."""
    counts = counts.copy()
    for _ in range(64):
        off = int(wanted - counts.sum())
        if off == 0:
            break
        weight = chance * (counts < most) if off > 0 else counts
        change = rng.multinomial(abs(off), weight / weight.sum())
        counts = np.clip(counts + np.sign(off) * change, 0, most)
    return counts
