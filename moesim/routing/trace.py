"""Router traces: which experts each token chose at each MoE layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class RouterTrace:
    """A captured (or synthetic) routing record, usually memory-mapped.

    ids: [token, layer, k] uint8/uint16 expert chosen; each row has k different experts.
    gates: [token, layer, k] uint8 square-root-coded gate weights (``(code / 255)**2``), or None.
    offsets: [sequences + 1] first token of each sequence.
    phase: [token] 0 = prefill, 1 = decode, or None when not recorded.
    labels: one label a sequence (domain, language …), or ().
    experts: number of routed experts. groups: routing groups (1 = none).
    source: how it was made, in words. synthetic: True unless the ids came out of a real forward pass.
    metadata: everything else from the header (model, training text hash, versions, moments …).
    """

    name: str
    ids: np.ndarray
    offsets: np.ndarray
    experts: int
    groups: int = 1
    gates: np.ndarray | None = None
    phase: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    source: str = ""
    synthetic: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.ids.shape[0]

    @property
    def layers(self) -> int:
        """Number of MoE layers recorded."""
        return self.ids.shape[1]

    @property
    def top_k(self) -> int:
        """Experts chosen per token and layer."""
        return self.ids.shape[2]
