"""Forward and backward kernels of training, each priced with its true shape by the cost models.

A product y[t, n] = x[t, k]·W[k, n] has two gradients: of its input, dy[t, n]·Wᵀ[n, k], and of its weights,
dyᵀ[n, t]·x[t, k], each with the forward's FLOPs. The weight gradient is added to the gradients accumulated so far,
which it reads and writes in their own format.

FP8 and narrower: every operand is cast where it is made, and a second copy is written transposed or scaled along the
other axis, because the weight gradient contracts over tokens (DeepSeek-V3 report, section 3.3: 1×128 tiles forward,
128×1 backward; Transformer Engine's cast-transpose). These passes, with attention, norms and communication in BF16, are
why FP8 trains some 1.2 times as fast as BF16 and not twice.

The experts' products run as one grouped kernel, or one by one (`Job.grouped_gemm`): Transformer Engine's GroupedLinear
calls cuBLAS once an expert, on four streams. Each product then fills its own last wave of tiles, and pays for it: on
H100 8 products of 4,096 x 768 x 2,048 in BF16 reach 628 TFLOP/s and 16 of 2,048 x 768 x 2,048 554 where one grouped
kernel reaches 651 and 637 (Transformer Engine 2.7, pull request 2045); products one after the other come out at 619 and
525 here, one product of all rows at 723.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.estimate import Cost
from moesim.cost.gemm import gemm
from moesim.cost.launch import EAGER_CALL_S
from moesim.cost.memory import memory_bound
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.shapes import Projection
from moesim.workload.training.job import Job

BF16 = PRECISIONS["bf16"]
_TILE_ROWS = 128  # grouped kernels pad the rows of each expert to a tile


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Seconds with an 80 % interval; numbers or arrays. Errors of one kernel are correlated: bounds add up.

    moved, attended: of these seconds, those of element-wise passes and casts, which stream through HBM, and those of
    attention kernels; the rest are products of matrices. kernels: that were launched.
    """

    seconds: np.ndarray | float = 0.0
    low: np.ndarray | float = 0.0
    high: np.ndarray | float = 0.0
    moved: np.ndarray | float = 0.0
    attended: np.ndarray | float = 0.0
    kernels: np.ndarray | float = 0.0

    def __add__(self, more: Span) -> Span:
        return Span(*(getattr(self, name) + getattr(more, name) for name in self.__slots__))

    def __mul__(self, factor: np.ndarray | float) -> Span:
        return self.each(lambda part: part * factor)

    def each(self, change: Callable[[np.ndarray | float], np.ndarray | float]) -> Span:
        """The same change to every part."""
        return Span(*(change(getattr(self, name)) for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """What one part of a layer costs: forward, gradient of its inputs, gradient of its weights."""

    forward: Span = Span()
    input: Span = Span()
    weight: Span = Span()

    def __add__(self, more: Passes) -> Passes:
        return Passes(self.forward + more.forward, self.input + more.input, self.weight + more.weight)


def span(cost: Cost, kernels: object = 1) -> Span:
    """A cost without its shape where it is one number. kernels: its launches, none where it takes no time."""
    parts = (cost.seconds, cost.low, cost.high)
    seconds, low, high = (float(part) if np.ndim(part) == 0 else np.asarray(part) for part in parts)
    return Span(seconds, low, high, kernels=kernels * (seconds > 0))


def moving(cost: Cost, kernels: object = 1) -> Span:
    """The span of passes through HBM."""
    found = span(cost, kernels)
    return replace(found, moved=found.seconds)


def launched(job: Job, cost: Span, captured: bool) -> np.ndarray | float:
    """Seconds of local work: its kernels' own from captured graphs, else no less than the host takes to launch them."""
    if captured:
        return cost.seconds
    return np.where(np.asarray(cost.seconds) > 0, np.maximum(cost.seconds, cost.kernels * EAGER_CALL_S), 0.0)


def streamed(job: Job, forward_bytes: object, input_bytes: object = 0.0, kernels: object = 1) -> Passes:
    """Element-wise passes that move so many bytes through HBM."""
    return Passes(
        moving(memory_bound(job.machine, forward_bytes, kernels=kernels), kernels),
        moving(memory_bound(job.machine, input_bytes, kernels=kernels), kernels),
    )


def linear(job: Job, tokens: float, product: Projection, weights: Precision, activations: Precision) -> Passes:
    """A projection of `tokens` rows. Batched products (one a head) cost as one with their joint output."""
    n, k = product.n * product.used, product.k
    return products(job, tokens, n, k, weights, activations) + Passes(
        moving(cast(job, tokens * k, activations)), moving(cast(job, tokens * n, activations))
    )


def products(
    job: Job, tokens: object, n: int, k: int, weights: Precision, activations: Precision, groups: object = 1.0
) -> Passes:
    """The three products of one matrix, operands already cast.

    groups: how many experts' matrices of [k, n] share the rows evenly; their weights and gradients all move.
    """
    machine = job.machine
    tokens, groups = np.asarray(tokens, dtype=float), np.asarray(groups, dtype=float)
    if job.grouped_gemm == "per_expert" and np.any(groups > 1):
        each = products(job, tokens / np.maximum(groups, 1), n, k, weights, activations)
        return Passes(*(part * groups for part in (each.forward, each.input, each.weight)))
    options = {"weights": weights, "activations": activations, "quantise": False}
    forward = span(gemm(machine, tokens, n, k, **options))
    backward = span(gemm(machine, tokens, k, n, **options))
    gradient = span(gemm(machine, n * groups, k, tokens / np.maximum(groups, 1), **options))
    more_weights = _streaming(job, np.maximum(groups - 1, 0) * n * k * weights.bytes)
    # The product writes BF16 where it should read and write accumulated gradients.
    accumulated = _streaming(job, groups * n * k * (2 * job.formats.gradients.bytes - BF16.bytes))
    some = tokens > 0
    return Passes(beside(forward, more_weights), beside(backward, more_weights), beside(gradient, accumulated * some))


def cast(job: Job, elements: object, precision: Precision, kernels: object = 1) -> Cost:
    """Cast BF16 elements to a narrow format, twice (rows and columns); nothing for BF16."""
    narrow = precision.bytes < BF16.bytes
    moved = np.asarray(elements) * (BF16.bytes + 2 * precision.bytes) * narrow
    return memory_bound(job.machine, moved, kernels=kernels)


def padded_rows(tokens: np.ndarray) -> np.ndarray:
    """[...] rows of a grouped product of tokens [..., slots], each expert's padded to a tile."""
    return np.ceil(np.asarray(tokens) / _TILE_ROWS).sum(axis=-1) * _TILE_ROWS


def _streaming(job: Job, moved: np.ndarray) -> np.ndarray:
    return moved / job.machine.device.hbm_bytes_per_s


def beside(product: Span, streaming: np.ndarray) -> Span:
    """A product and traffic that overlaps with it as a product's own traffic does: (a² + b²)^½, the default overlap of
    `moesim.cost.gemm`."""
    seconds = np.hypot(product.seconds, streaming)
    factor = np.divide(seconds, product.seconds, out=np.ones_like(seconds), where=np.asarray(product.seconds) > 0)
    if np.ndim(seconds) == 0:
        factor = float(factor)
    return replace(product * factor, kernels=product.kernels)
