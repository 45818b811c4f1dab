"""Optimizers: what they keep for each parameter, and the passes over HBM and products of one update.

An optimizer is a function in `OPTIMIZERS`; its keyword-only arguments are the keys that a scenario sets under
``optimizer:``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Optimizer:
    """states: elements kept for each parameter. matrix_states: likewise where the parameter belongs to a matrix.
    newton_schulz_steps: iterations of the orthogonalisation that matrices go through, 0 = none."""

    states: int
    matrix_states: int
    newton_schulz_steps: int = 0


def adam() -> Optimizer:
    """Adam and AdamW: two moments (Kingma & Ba 2015)."""
    return Optimizer(2, 2)


def sgd(*, momentum: bool = True) -> Optimizer:
    """Stochastic gradient descent."""
    return Optimizer(int(momentum), int(momentum))


def muon(*, newton_schulz_steps: int = 5) -> Optimizer:
    """Muon: one momentum, orthogonalised by Newton-Schulz steps, for matrices; Adam for the rest (Jordan, 2024)."""
    return Optimizer(2, 1, newton_schulz_steps)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "sgd": sgd, "muon": muon}
