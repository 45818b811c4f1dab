"""Step times from whole simulated steps: a program of every rank on the real network, with routing from a trace.

Alike steps are simulated once. A batch bucket (powers of √2 sequences a rank) draws from a fixed set of trace windows,
one after another as decoding goes on (`STEPS_PER_DRAW`), each at one context; how time grows with the context is
simulated on the first window. Between buckets times are interpolated. A stack's constants add its host's part, and its
`Factors` scale the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from moesim.engine.simulate import simulate
from moesim.engine.wire import Rates
from moesim.placement.traffic import LayerTraffic
from moesim.routing.replay import Routes
from moesim.serving.replayed import WINDOWS, window_of
from moesim.serving.stack import Constants, Counts
from moesim.serving.steps import Prefill
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.footprint import expert_bytes, footprint, kv_bytes
from moesim.workload.inference import inference_steps

_CONTEXTS = tuple(2**power for power in range(6, 18))
_MIDDLE = 2048  # context at which the windows are compared


@dataclass(frozen=True, slots=True)
class Factors:
    """What a stack's whole steps take of the simulated kernels' time, in steps that only decode and in those that hold
    prompts. Below 1 by what is fused or launched ahead and measured kernels lack, above by what is launched one by one
    and packed badly. Fitted to measured runs by ``benchmarks/simulated_steps.py``."""

    decode: float = 1.0
    prompts: float = 1.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What the windows of one batch size gave, each [window]: seconds, hottest rank over mean rank, and seconds that
    HBM takes for the experts that tokens touch."""

    seconds: np.ndarray
    hottest: np.ndarray
    experts_s: np.ndarray


class SimulatedSteps:
    """A `moesim.serving.steps.StepCost` that simulates each kind of step when it is first asked for.

    pool: routes of many tokens a rank, of which each window takes some; None for a dense model. overlap: one of
    `moesim.workload.overlap.OVERLAPS`. rates: of the network's fidelity. counts, constants: what the host adds.
    factors: of the stack's kernels.
    """

    def __init__(
        self,
        deployment: Deployment,
        pool: Routes | None,
        *,
        overlap: Callable,
        rates: Rates,
        counts: Counts,
        constants: Constants,
        factors: Factors,
        windows: int = WINDOWS,
    ):
        self.deployment, self._pool, self._overlap, self._rates = deployment, pool, overlap, rates
        self._counts, self._constants, self._windows = counts, constants, windows
        self._factors = factors
        self._buckets: dict[int, Bucket] = {}
        self._grown: dict[tuple[int, int], float] = {}
        self._prompts: dict[tuple[int, int], float] = {}
        self._dense_s = _dense_bytes(deployment) / deployment.machine.device.hbm_bytes_per_s
        self.simulated = 0

    def under(self, factors: Factors) -> SimulatedSteps:
        """The same steps under other factors; what one of them simulates, both know."""
        other = copy(self)
        other._factors = factors
        return other

    @property
    def buckets(self) -> dict[int, Bucket]:
        """What was simulated so far, by sequences on a rank."""
        return dict(self._buckets)

    @property
    def draws(self) -> int:
        """As `StepCost` says."""
        return self._windows

    def hottest(self, sequences: int, total: int, draw: int = 0) -> float:
        """As `StepCost` says: of the bucket below the batch, 1 where none was simulated yet."""
        bucket = self._buckets.get(_around(sequences)[0]) if sequences else None
        return 1.0 if bucket is None else float(bucket.hottest[draw])

    def decode_s(self, sequences: int, total: int, context: float, draw: int = 0) -> float:
        """As `StepCost` says; every rank has as many sequences as the busiest."""
        c, counts = self._constants, self._counts
        host = c.fixed + c.sequence * sequences + counts.layers * counts.unpriced * c.kernel
        kernels = self._factors.decode * self._between_buckets(sequences, context / sequences, draw)
        # Whatever a stack fuses, weights and caches have to be read.
        experts_s = self._bucket(_around(sequences)[0]).experts_s[draw]
        return host + max(kernels, self._dense_s + experts_s + self._cache_s(sequences, context / sequences))

    def bend(self, sequences: int, context: float) -> float:
        """As `StepCost` says."""
        return next((place * sequences for place in _CONTEXTS if place * sequences > context), math.inf)

    def mixed_s(self, sequences: int, total: int, context: float, prefill: Prefill) -> float:
        """As `StepCost` says: a prefill of all new tokens, and the decode attention over what is cached."""
        c, counts = self._constants, self._counts
        length = max(1, round((2 * prefill.attended / prefill.prompts) ** 0.5))
        prompts = max(1, round((prefill.tokens + sequences) / length))
        seconds = self._prefill(prompts, length) * (prefill.tokens + sequences) / (prompts * length)
        seconds *= self._factors.prompts
        if sequences:
            attention = self._between_buckets(sequences, context / sequences) - self._between_buckets(sequences, 1.0)
            seconds += max(self._factors.decode * attention, self._cache_s(sequences, context / sequences))
        seconds += counts.layers * counts.unpriced * c.kernel
        if prefill.tokens + sequences > c.graph_tokens:
            seconds = max(seconds, counts.layers * counts.eager * c.eager)
        return c.fixed + c.sequence * sequences + seconds + counts.layers / 60 * c.prompt

    def _cache_s(self, sequences: int, context: float) -> float:
        """Seconds that HBM takes for the caches on the busiest rank, of one pipeline stage."""
        degrees = self.deployment.parallelism
        cached = sequences * kv_bytes(self.deployment, int(context)) / (degrees.pp * degrees.cp)
        return cached / self.deployment.machine.device.hbm_bytes_per_s

    def _between_buckets(self, sequences: int, context: float, draw: int = 0) -> float:
        """Seconds of a decode step, linear between the two buckets around a batch, and between contexts."""
        low, high = _around(sequences)
        share = 0.0 if high == low else (sequences - low) / (high - low)
        seconds = self._at(low, context, draw) * (1 - share)
        return seconds + self._at(high, context, draw) * share if share else seconds

    def _at(self, sequences: int, context: float, draw: int) -> float:
        places = _CONTEXTS
        upper = next((place for place in places if place >= context), places[-1])
        lower = max(upper // 2, places[0]) if upper > places[0] else places[0]
        base = self._bucket(sequences).seconds[draw] - self._context_s(sequences, _MIDDLE)
        if upper == lower:
            return float(base + self._context_s(sequences, upper))
        share = min((context - lower) / (upper - lower), 1.0)
        low, high = self._context_s(sequences, lower), self._context_s(sequences, upper)
        return float(base + low + share * (high - low))

    def _bucket(self, sequences: int) -> Bucket:
        if sequences not in self._buckets:
            found = self._simulate("decode", sequences, 1, _MIDDLE, range(self._windows))
            self._buckets[sequences] = Bucket(*np.array(found).T)
        return self._buckets[sequences]

    def _context_s(self, sequences: int, context: int) -> float:
        if context == _MIDDLE:
            return self._bucket(sequences).seconds[0]
        key = (sequences, context)
        if key not in self._grown:
            self._grown[key] = self._simulate("decode", sequences, 1, context)[0][0]
        return self._grown[key]

    def _prefill(self, prompts: int, length: int) -> float:
        """Seconds of a step of so many prompts on each rank, by buckets of √2 in their number and length."""
        key = _nearest(prompts), _nearest(length)
        if key not in self._prompts:
            self._prompts[key] = self._simulate("prefill", *key, 0)[0][0]
        return self._prompts[key] * (prompts * length) / (key[0] * key[1])

    def _simulate(
        self, phase: str, sequences: int, new_tokens: int, context: int, windows: Iterable[int] = (0,)
    ) -> list[tuple[float, float, float]]:
        """(seconds, hottest rank over mean rank, `Bucket.experts_s`) of one step, window by window."""
        deployment, windows = self.deployment, tuple(windows)
        self.simulated += len(windows)
        batch = Batch(phase, np.full(deployment.parallelism.attention_dp, sequences), new_tokens, context)
        tokens = int(batch.tokens[0])
        routes = [None if self._pool is None else window_of(self._pool, tokens, window) for window in windows]
        found = []
        for step in inference_steps(deployment, batch, routes, [self._overlap] * len(windows)):
            timeline = simulate(step.programs, self._rates, deployment.network.capacity)
            loads = [layer.tokens.sum(axis=1) for part in step.traffic for layer in part]
            hottest = np.mean([load.max() / max(load.mean(), 1e-9) for load in loads]) if loads else 1.0
            found.append((step.seconds(timeline), float(hottest), self._experts_s(step.traffic)))
        return found

    def _experts_s(self, traffic: Sequence[Sequence[LayerTraffic]]) -> float:
        """Seconds that HBM takes for the experts that tokens touch, on the busiest rank of each layer."""
        touched = [
            max(np.count_nonzero(layer.tokens, axis=1).max() for layer in part) for part in zip(*traffic, strict=True)
        ]
        if not touched:
            return 0.0
        read = float((np.array(touched) * expert_bytes(self.deployment)).sum()) / self.deployment.parallelism.pp
        return read / self.deployment.machine.device.hbm_bytes_per_s


def _dense_bytes(deployment: Deployment) -> float:
    """Weights of a rank that every step reads whole, whatever is routed, of one stage; not the embedding's rows."""
    batch = Batch("decode", np.ones(deployment.parallelism.attention_dp, dtype=int), 1, 1)
    found = footprint(deployment, batch, 0, reserve=0.0)
    return found.attention + found.shared_experts + found.dense_ffn + found.routers


def _nearest(number: int) -> int:
    """The nearest power of √2, rounded."""
    return round(2 ** (round(2 * np.log2(number)) / 2))


def _around(sequences: int) -> tuple[int, int]:
    """The two batch buckets around a batch: powers of √2, rounded."""
    power = np.floor(2 * np.log2(sequences) + 1e-9)
    low, high = (round(2 ** (p / 2)) for p in (power, power + 1))
    return (low, low) if low >= sequences else (low, max(high, low + 1))
