"""What measured runs of a known stack, model and hardware add to a physical prediction: few terms, shrunk.

    ln(measured / predicted) = u[stack, model, hardware, precision] + u[…, image] + Σ_f v[stack, model, f]·f(load) + …

f: logarithms of concurrency, prompt length, output length and GPUs, centred and scaled. u and v are the best linear
unbiased predictors of a mixed model (Henderson 1975): estimated from known groups and shrunk by how few their runs are
(`moesim.study.validation.serving.fit_effects`). A stack, model or hardware that no run has shown gets nothing: there
physics speaks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

FEATURES = ("concurrency", "input_len", "output_len", "gpus")
_CENTRE = np.log2([32, 2048, 1024, 4])
_SCALE = np.array([2.0, 1.5, 1.5, 1.0])  # octaves: about the standard deviations of published runs
_FURTHEST = 2.0  # features are held inside this many scales: slopes are not carried on beyond what was measured


@dataclass(frozen=True, slots=True)
class Effects:
    """Terms of (TTFT, TPOT) by name, as `group_name` and its siblings make them.

    groups: (TTFT, TPOT). images: the same, by group and image. slopes: (TTFT, TPOT), each [FEATURES].
    """

    groups: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    images: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    slopes: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)

    def knows(self, stack: str, model: str, hardware: str, precision: str, image: str) -> bool:
        """Whether runs of this group were seen, and of this image where one is named."""
        group = group_name(stack, model, hardware, precision)
        return group in self.groups and (not image or image_name(group, image) in self.images)

    def factors(
        self, stack: str, model: str, hardware: str, precision: str, image: str, load: np.ndarray
    ) -> tuple[float, float]:
        """Factors on predicted (TTFT, TPOT). load: `features` of the run; image: empty where it is not recorded."""
        group = group_name(stack, model, hardware, precision)
        slopes = np.array(self.slopes.get(slope_name(stack, model), np.zeros((2, len(FEATURES)))))
        terms = np.array(self.groups.get(group, (0.0, 0.0))) + self.images.get(image_name(group, image), (0.0, 0.0))
        ttft, tpot = np.exp(terms + slopes @ load)
        return float(ttft), float(tpot)


def group_name(stack: str, model: str, hardware: str, precision: str) -> str:
    """The key of `Effects.groups`."""
    return f"{stack} {model} {hardware} {precision}"


def image_name(group: str, image: str) -> str:
    """The key of `Effects.images`: the image without its registry and folders; empty where there is none."""
    return f"{group} {image.rsplit('/', 1)[-1]}" if image else ""


def slope_name(stack: str, model: str) -> str:
    """The key of `Effects.slopes`."""
    return f"{stack} {model}"


def features(concurrency: float, input_len: float, output_len: float, gpus: float) -> np.ndarray:
    """[…, FEATURES] of one run, or of arrays of them."""
    logs = np.log2(np.stack(np.broadcast_arrays(concurrency, input_len, output_len, gpus), axis=-1).astype(float))
    return np.clip((logs - _CENTRE) / _SCALE, -_FURTHEST, _FURTHEST)
