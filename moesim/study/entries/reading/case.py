"""A published figure as something to run: a scenario, the quantity to read off it, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.errors import MoesimError
from moesim.study.entries.reading.quantity import Quantity


class NotStated(MoesimError):
    """An entry does not say enough, or names something that moesim does not know; the message says what."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One entry ready to run.

    document: data of a scenario file of any kind (one step, a training step, a load to serve). stack: group of the
    calibration, e.g. ``trtllm load``. age: years from the software's release to `calibration.REFERENCE`, None where it
    is not dated. assumed: what the entry does not state. base: the same without what a speed-up is about. kept: tokens
    that a user gets in a step, more than 1 where drafted ones are kept. devices: of the whole system, None where they
    are the scenario's.
    """

    id: str
    document: Mapping[str, object]
    quantity: Quantity
    stack: str
    assumed: tuple[str, ...] = ()
    age: float | None = None
    base: Mapping[str, object] | None = None
    kept: float = 1.0
    devices: int | None = None


@dataclass(slots=True)
class Assumptions:
    """Collects, in words, what a conversion assumes."""

    texts: list[str] = field(default_factory=list)

    def take(self, stated: object, otherwise: object, words: str) -> object:
        """What is stated; else `otherwise`, noted in `words` with its value."""
        if stated not in (None, ""):
            return stated
        self.texts.append(f"{words} {otherwise}")
        return otherwise

    def note(self, words: str) -> None:
        """Note an assumption once."""
        if words not in self.texts:
            self.texts.append(words)
