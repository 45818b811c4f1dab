"""What a stack's published figures say about it beyond the simulation: factors on the times of each kind of work.

    calibrated = exp(ageing · age) · ((device² + host²)^½ + scan_s · scans) · (1 + factor_bubble · b)
             where both take turns:   compute + (exchange² + host²)^½
    device = Σ_kind factor_kind · simulated_kind, without the bubble;  b = simulated bubble over all the rest
    host = host_s · layer passes + expert_s · expert passes

One set of factors a stack and kind of run (``megatron fp8``, ``trtllm load``), nothing for a source or a single entry;
the file `calibration.yaml` beside this module holds them with the number of entries and the errors on held-out groups,
and `moesim.study.entries.fitting.fit` makes it. A stack without a set takes that of any stack with such runs
(``any fp8``), a format that nobody trained in ``any training``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from moesim.hardware.precision import PRECISIONS
from moesim.study.entries.reading import words
from moesim.study.entries.runs.outcome import Outcome

SHIPPED = Path(__file__).with_name("calibration.yaml")
REFERENCE = 2026.25  # years; ages are counted to April 2026, as those of serving stacks are
TRAINING = "training"  # the kind of run of stacks whose second word is a format
BUBBLE = "bubble"  # the kind of work that stretches with all others: a pipeline's
EXCHANGE = "exchange"  # what shows of dispatch and combine
UNCALIBRATED = (0.6, 1.7)  # factors on a prediction that hold about 80 % of published figures without any fit


@dataclass(frozen=True, slots=True)
class Factors:
    """factors: by kind of work, 1 where none is stated. host_s: seconds that the host takes for each pass of a layer
    forward and back, beside the device. scan_s: seconds that training takes for 10^12 elements of states of linear
    attention and Mamba, whose scans have no measured kernel to be priced by. ageing: log slowdown a year of older
    releases. interval: factors on a predicted time that hold 80 % of held-out figures. entries: figures that the fit
    saw. expert_s: seconds of each local expert in a pass of a layer, whose
    products the host launches one by one."""

    factors: Mapping[str, float] = field(default_factory=dict)
    host_s: float = 0.0
    scan_s: float = 0.0
    ageing: float = 0.0
    interval: tuple[float, float] = UNCALIBRATED
    entries: int = 0
    expert_s: float = 0.0

    def scale(self, outcome: Outcome, age: float | None) -> float:
        """Calibrated over simulated seconds of an outcome."""
        total = sum(outcome.seconds.values())
        if total <= 0:
            return 1.0
        weighted = {kind: self.factors.get(kind, 1.0) * seconds for kind, seconds in outcome.seconds.items()}
        bubble = weighted.pop(BUBBLE, 0.0) / max(total - outcome.seconds.get(BUBBLE, 0.0), 1e-12)
        host = self.host_s * outcome.passes + self.expert_s * outcome.expert_passes
        device = sum(weighted.values())
        beside = weighted.get(EXCHANGE, 0.0) if outcome.serial else device
        scaled = float(combined(device, host, self.scan_s * outcome.scans, bubble, beside))
        return scaled / total * math.exp(self.ageing * (age or 0.0))


def combined(
    device: np.ndarray, host: np.ndarray, scan: np.ndarray, bubble: np.ndarray, beside: np.ndarray
) -> np.ndarray:
    """Seconds of a step out of those of the device, of its host and of scans; bubble: over all of them. beside: what of
    the device's seconds the host can launch beside."""
    return (device - beside + np.hypot(beside, host) + scan) * (1 + bubble)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors by stack; `of` never fails."""

    stacks: Mapping[str, Factors] = field(default_factory=dict)

    def of(self, stack: str) -> Factors:
        """The factors of a stack; of its kind of run over all stacks where it has none; else none."""
        run, _ = run_and_format(stack)
        names = (stack, f"any {stack.partition(' ')[2]}", f"any {run}")
        return next((self.stacks[name] for name in names if name in self.stacks), Factors())


def run_and_format(stack: str) -> tuple[str, str]:
    """``megatron fp8`` → (training, fp8); ``trtllm load`` → (load, '')."""
    second = stack.partition(" ")[2]
    formats = {precision.compute for precision in PRECISIONS.values()}
    return (TRAINING, second) if second in formats or second == TRAINING else (second, "")


def age(software: str) -> float | None:
    """Years from a dated release to `REFERENCE`; None where no date is stated."""
    return years_ago(words.version(software))


def years_ago(released: float | None) -> float | None:
    """Years from a date to `REFERENCE`; None where there is none."""
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
                expert_s=float(kept.get("expert_s", 0.0)),
            )
            for stack, kept in data["stacks"].items()
        }
    )
