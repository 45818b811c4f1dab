"""How many steps a request takes when drafted tokens are kept now and then (multi-token prediction)."""

from __future__ import annotations

import numpy as np

from moesim.serving.policy import Policy


def decode_steps(outputs: np.ndarray, policy: Policy, rng: np.random.Generator) -> np.ndarray:
    """[request] steps that outputs need after the first token: one each, or fewer with multi-token prediction.

    A step gains 1 + (drafted tokens kept); sums of many such steps are nearly normal, so the number of steps to reach n
    tokens is drawn from N(n/μ, n·σ²/μ³) (the renewal theorem), at least n/(drafts + 1).
    """
    later = outputs - 1
    if not policy.draft_tokens or not policy.acceptance:
        return later
    kept = np.arange(policy.draft_tokens + 1)
    chance = policy.acceptance**kept * np.where(kept < policy.draft_tokens, 1 - policy.acceptance, 1.0)
    mean = float((chance * (kept + 1)).sum())
    variance = float((chance * (kept + 1 - mean) ** 2).sum())
    drawn = later / mean + np.sqrt(later * variance / mean**3) * rng.standard_normal(later.size)
    fewest = np.ceil(later / (policy.draft_tokens + 1))
    return np.clip(np.rint(drawn), fewest, later).astype(np.int64)
