"""The prefix cache: blocks of earlier prompts that stay in memory until it is needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Hashed blocks of tokens, least recently used first out. room: tokens that it may hold at the time of asking."""

    def __init__(self, block_tokens: int):
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def lookup(self, hashes: Sequence[int]) -> int:
        """Tokens at the beginning of a prompt that are cached; they become the most recently used."""
        hit = 0
        for block in hashes:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            hit += 1
        return hit * self._block_tokens

    def insert(self, hashes: Sequence[int], room: float) -> None:
        """Keep the blocks of a computed prompt, as far as the memory that no running request uses goes."""
        for block in hashes:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        self.shrink(room)

    def shrink(self, room: float) -> None:
        """Drop the least recently used blocks beyond `room` tokens."""
        most = max(0, int(room) // self._block_tokens)
        while len(self._blocks) > most:
            self._blocks.popitem(last=False)
