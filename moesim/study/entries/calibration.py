"""What a stack's published figures say about it beyond the simulation: factors on the times of each kind of work.

    calibrated = exp(ageing · age) · (Σ_kind factor_kind · simulated_kind + host_s · layer passes + scan_s · scans)

One set of factors a stack and kind of run (``megatron mxfp8``, ``trtllm load``), none for a single entry; the file
`calibration.yaml` beside this module holds them with the number of entries and the errors on held-out groups, and
`moesim.study.entries.fit` makes it. A stack without a set keeps the simulated times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from moesim.study.entries import words
from moesim.study.entries.outcome import Outcome

SHIPPED = Path(__file__).with_name("calibration.yaml")
REFERENCE = 2026.25  # years; ages are counted to April 2026, as those of serving stacks are
UNCALIBRATED = (0.6, 1.7)  # factors on a prediction that hold about 80 % of published figures without any fit


@dataclass(frozen=True, slots=True)
class Factors:
    """factors: by kind of work, 1 where none is stated. host_s: seconds of each pass of a layer forward and back beyond
    its kernels (launches, small kernels). scan_s: seconds that training takes for 10^12 elements of states of linear
    attention and Mamba, whose scans have no measured kernel to be priced by. ageing: log slowdown a year of older
    releases. interval: factors on a predicted time that hold 80 % of held-out figures. entries: figures that the fit
    saw."""

    factors: Mapping[str, float] = field(default_factory=dict)
    host_s: float = 0.0
    scan_s: float = 0.0
    ageing: float = 0.0
    interval: tuple[float, float] = UNCALIBRATED
    entries: int = 0

    def scale(self, outcome: Outcome, age: float | None) -> float:
        """Calibrated over simulated seconds of an outcome."""
        total = sum(outcome.seconds.values())
        if total <= 0:
            return 1.0
        scaled = sum(self.factors.get(kind, 1.0) * seconds for kind, seconds in outcome.seconds.items())
        scaled += self.host_s * outcome.passes + self.scan_s * outcome.scans
        return scaled / total * math.exp(self.ageing * (age or 0.0))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors by stack; `of` never fails."""

    stacks: Mapping[str, Factors] = field(default_factory=dict)

    def of(self, stack: str) -> Factors:
        """The factors of a stack; of its kind of run over all stacks where it has none; else none."""
        kind = stack.partition(" ")[2]
        return self.stacks.get(stack) or self.stacks.get(f"any {kind}") or Factors()


def age(software: str) -> float | None:
    """Years from a dated release to `REFERENCE`; None where no date is stated."""
    released = words.version(software)
    return None if released is None else round(REFERENCE - released, 4)


@lru_cache(maxsize=4)
def load_calibration(path: Path = SHIPPED) -> Calibration:
    """The calibration of a file; none where there is no file."""
    if not path.is_file():
        return Calibration()
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Calibration(
        {
            stack: Factors(
                dict(kept.get("factors", {})),
                float(kept.get("host_s", 0.0)),
                float(kept.get("scan_s", 0.0)),
                float(kept.get("ageing", 0.0)),
                tuple(kept.get("interval", UNCALIBRATED)),
                int(kept.get("entries", 0)),
            )
            for stack, kept in data["stacks"].items()
        }
    )
