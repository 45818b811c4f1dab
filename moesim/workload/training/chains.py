"""Chains: the operations of a pass through some layers, in the order in which one microbatch needs them.

A chain knows neither indices nor programs, so that it is built once and written for every microbatch that is alike.
Two chains can be written interleaved: whenever one of them communicates, the other computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter

After = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One operation: local work of seconds [ranks], or a collective.

    aside: the chain goes on without waiting for it. label: by which later parts of the chain can wait for it, and those
    of other chains of the stage if it is lasting. waits: labels that this one waits for beside its predecessor; unknown
    ones need no waiting. share: what a collective takes from compute.
    """

    kind: str
    layer: int
    seconds: np.ndarray | None = None
    transfer: Transfer | None = None
    share: float = 0.0
    stream: str = "communication"
    aside: bool = False
    label: str = ""
    lasting: bool = False
    waits: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Walk:
    """Writes one chain. after: what its next part waits for. lasting: operations by label, of all chains of a stage."""

    emit: Emitter
    after: After
    lasting: dict[str, int]
    own: dict[str, int] = field(default_factory=dict)

    def write(self, part: Part) -> None:
        """Append one operation to the program."""
        known = (self.own.get(label, self.lasting.get(label)) for label in part.waits)
        after = (*self.after, *(index for index in known if index is not None))
        index = self.emit.write(part.kind, part.layer, part.stream, after, part.seconds, part.transfer, part.share)
        if part.label:
            (self.lasting if part.lasting else self.own)[part.label] = index
        if not part.aside:
            self.after = (index,)


def write_chains(
    emit: Emitter, chains: Sequence[Sequence[Part]], afters: Sequence[After], lasting: dict[str, int]
) -> tuple[After, ...]:
    """Write one chain, or several interleaved, each after its own `afters`; returns what ends each of them."""
    walks = [Walk(emit, after, lasting) for after in afters]
    turns = [_segments(chain) for chain in chains]
    for turn in range(max(map(len, turns))):
        for walk, segments in zip(walks, turns, strict=True):
            for part in segments[turn] if turn < len(segments) else ():
                walk.write(part)
    return tuple(walk.after for walk in walks)


def _segments(chain: Sequence[Part]) -> list[list[Part]]:
    """The chain cut behind every collective that something may hide."""
    cut: list[list[Part]] = [[]]
    for part in chain:
        cut[-1].append(part)
        if part.transfer is not None and part.stream == "communication":
            cut.append([])
    return cut if cut[-1] or len(cut) == 1 else cut[:-1]


@dataclass(slots=True, eq=False)
class Chain:
    """Collects the parts of a chain for ranks that are alike or differ by arrays."""

    ranks: int
    parts: list[Part] = field(default_factory=list)

    def compute(self, kind: str, layer: int, seconds: np.ndarray | float, *waits: str) -> None:
        """Local work; nothing is written where it takes no time on any rank."""
        if np.max(seconds) > 0:
            spread = np.broadcast_to(np.asarray(seconds, dtype=float), (self.ranks,))
            self.parts.append(Part(kind, layer, seconds=spread, stream="compute", waits=waits))

    def join(self, kind: str, layer: int, *waits: str) -> None:
        """Wait for parts that ran aside."""
        self.parts.append(Part(kind, layer, seconds=np.zeros(self.ranks), stream="compute", waits=waits))

    def communicate(self, kind: str, layer: int, transfer: Transfer | None, share: float = 0.0, **options) -> None:
        """A collective; nothing where there is nobody to talk to. options: those of `Part`."""
        if transfer is not None:
            self.parts.append(Part(kind, layer, transfer=transfer, share=share, **options))
