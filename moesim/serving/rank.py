"""One attention-DP rank of a server: which requests its KV cache holds, and what still fits."""

from __future__ import annotations

from moesim.serving.batch import Sequence
from moesim.serving.policy import Policy
from moesim.serving.prefixes import PrefixCache


class Rank:
    """Tokens are those in the cache of one rank, or promised to a request whose prompt is being computed.

    capacity: tokens of the cache. block_tokens: of the hashed blocks of prefixes.
    """

    __slots__ = (
        "_gain", "_most", "_partial", "_reserve", "cache", "capacity", "context", "promised", "reserved", "running",
        "sequences",
    )  # fmt: skip

    def __init__(self, policy: Policy, capacity: float, block_tokens: int):
        self.capacity = capacity
        self.sequences = 0  # decoding
        self.context = 0.0  # tokens of the decoding ones
        self.promised = 0.0  # prompt tokens of those in prefill
        self.reserved = 0.0  # decode tokens still to come of all admitted
        self.running: dict[Sequence, None] = {}  # admitted, in order
        self.cache = PrefixCache(block_tokens)
        self._most, self._reserve, self._gain = policy.max_sequences, policy.kv_reserve, policy.tokens_per_step
        self._partial = partial_page(policy)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the request can be admitted now."""
        if len(self.running) >= self._most:
            return False
        need = sequence.prompt + self._partial + self._reserve * sequence.steps * self._gain + 1
        return self.used() + need <= self.capacity

    def used(self) -> float:
        """Tokens that admission counts as taken: with half a page a request and the reserve for outputs."""
        return self.context + self.promised + len(self.running) * self._partial + self._reserve * self.reserved

    def steps_left(self) -> int:
        """Decode steps that still fit beside what runs; below one where the cache is full. Something decodes."""
        free = self.capacity - self.context - self.promised - len(self.running) * self._partial
        return int(free / (self.sequences * self._gain))

    def share(self) -> float:
        """Part of the cache that requests hold."""
        return (self.context + self.promised) / self.capacity


def partial_page(policy: Policy) -> float:
    """Tokens that a sequence's last page leaves empty: half of it on average."""
    return (policy.block_tokens - 1) / 2
