"""Auxiliary losses that keep the load of the experts even."""

from __future__ import annotations

import torch
from torch import Tensor


def load_share(ids: Tensor, experts: int, kept: Tensor | None = None) -> Tensor:
    """f: [expert] share of the routed rows that each expert gets; sums to 1. ids: [..., k]."""
    rows = ids.flatten() if kept is None else ids[kept]
    return torch.bincount(rows, minlength=experts).float() / max(rows.numel(), 1)


def switch_loss(probabilities: Tensor, ids: Tensor) -> Tensor:
    """N Σ_e f_e P_e over one batch: 1 when balanced (Fedus et al. 2021, eq. 4; GShard, Lepikhin et al. 2020, ℓ_aux).

    probabilities: [token, expert] that sum to 1 over experts; P_e is their mean over tokens. ids: [token, k].
    """
    experts = probabilities.shape[-1]
    return experts * (load_share(ids, experts) * probabilities.mean(0)).sum()


def sequence_loss(probabilities: Tensor, ids: Tensor, sequences: int) -> Tensor:
    """`switch_loss` of each sequence, averaged (DeepSeek-V3 report, eqs. 17-20: the complementary sequence-wise loss).

    Rows of both arguments are grouped by sequence, all of one length.
    """
    tokens, experts = probabilities.shape
    rows = ids.reshape(sequences, -1)
    share = torch.zeros(sequences, experts).scatter_add_(1, rows, torch.ones(rows.shape)) / rows.shape[1]
    mean = probabilities.reshape(sequences, tokens // sequences, experts).mean(1)
    return experts * (share * mean).sum(1).mean()


def squared_coefficient_of_variation(values: Tensor) -> Tensor:
    """Var(x) / Mean(x)^2, the form of Shazeer et al. (2017)'s importance and load losses. values: [expert]."""
    return values.var(unbiased=False) / values.mean().square().clamp_min(1e-10)


def importance_loss(gates: Tensor) -> Tensor:
    """CV^2 of the summed gates of each expert (Shazeer et al. 2017, eqs. 6-7). gates: [token, expert]."""
    return squared_coefficient_of_variation(gates.sum(0))


def z_loss(logits: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router logits [token, expert] (ST-MoE, Zoph et al. 2022, eq. 5)."""
    return torch.logsumexp(logits, dim=-1).square().mean()
