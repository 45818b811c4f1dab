"""Which activations are dropped after the forward pass and computed again before the backward pass.

A policy is a function in `RECOMPUTATIONS` that names modules of a layer; its keyword-only arguments are the keys that a
scenario sets under ``recomputation:``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

# norm: both norms of a layer. mla_up: MLA's up-projections. attention: the attention kernel. activation: the
# element-wise part of SwiGLU. dense_ffn, shared_expert, experts: the whole part, dispatch included for experts.
Module = Literal["norm", "mla_up", "attention", "activation", "dense_ffn", "shared_expert", "experts"]
LAYER = "layer"


def none() -> frozenset[str]:
    """Keep everything."""
    return frozenset()


def selective(*, modules: tuple[Module, ...] = ("norm", "activation")) -> frozenset[str]:
    """Drop what these modules save: norm, mla_up, attention, activation, dense_ffn, shared_expert, experts."""
    return frozenset(modules)


def full() -> frozenset[str]:
    """Keep only the input of each layer and run the whole layer again, dispatch and combine included."""
    return frozenset({LAYER})


RECOMPUTATIONS: dict[str, Callable[..., frozenset[str]]] = {"none": none, "selective": selective, "full": full}
