"""What a step of a server takes: the shape of a step, and the interface that prices one.

A server is one instance of the model whose attention-DP ranks step together; the busiest rank sets the pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

STEPS_PER_DRAW = 64  # tokens of neighbouring steps belong to the same requests, and are routed alike


class StepCost(Protocol):
    """Seconds of steps. Sequences count draft tokens too: each of them computes 1 + draft_tokens."""

    draws: int
    """Windows of routing that differ in their time; a server goes on to the next every `STEPS_PER_DRAW` steps."""

    def decode_s(self, sequences: int, total: int, context: float, draw: int = 0) -> float:
        """A step that only decodes: sequences and tokens of context on the busiest rank, sequences on all."""

    def hottest(self, sequences: int, total: int, draw: int = 0) -> float:
        """Routed tokens of the hottest expert rank over the mean rank's, mean over layers, of a decode step."""

    def bend(self, sequences: int, context: float) -> float:
        """The context above the given one up to which `decode_s` is a straight line in it."""

    def mixed_s(self, sequences: int, total: int, context: float, prefill: Prefill) -> float:
        """A step with tokens of prompts, beside decoding (sequences 0 where decoding pauses)."""


class Prefill(NamedTuple):
    """The prompts' part of a step.

    tokens: new tokens on the busiest rank. total: on all ranks. attended: Σ over the busiest rank's new tokens of the
    tokens that each attends to. prompts: prompts in the step.
    """

    tokens: int
    total: int
    attended: float
    prompts: int


@dataclass(frozen=True, slots=True)
class LinearSteps:
    """The simplest price: a + b·sequences + c·context + d·prefill tokens, seconds. For tests and rough work."""

    fixed_s: float
    sequence_s: float = 0.0
    context_s: float = 0.0
    token_s: float = 0.0
    draws: int = 1

    def decode_s(self, sequences: int, total: int, context: float, draw: int = 0) -> float:
        """As `StepCost` says."""
        return self.fixed_s + self.sequence_s * sequences + self.context_s * context

    def hottest(self, sequences: int, total: int, draw: int = 0) -> float:
        """As `StepCost` says."""
        return 1.0

    def bend(self, sequences: int, context: float) -> float:
        """As `StepCost` says."""
        return math.inf

    def mixed_s(self, sequences: int, total: int, context: float, prefill: Prefill) -> float:
        """As `StepCost` says."""
        return self.decode_s(sequences, total, context) + self.token_s * prefill.tokens
