"""Where a scenario's routing comes from: a captured trace, or a synthetic one that says so.

Each kind builds a `RouterTrace` for the model's geometry; synthetic ones with about `tokens` tokens. beside: the file
that relative paths start from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from moesim.errors import InvalidInput, Problem
from moesim.routing import synthesis
from moesim.routing.latent import Geometry
from moesim.routing.load import open_load_table
from moesim.routing.replay import select_sequences
from moesim.routing.trace import RouterTrace, open_trace
from moesim.spec.reading import library
from moesim.spec.reading.complaints import one_of
from moesim.spec.reading.loading import Document, Spec

Positive = Annotated[float, Field(gt=0, le=10)]


class TraceRouting(Spec):
    """Replay a captured trace.

    trace: a shipped capture or a .safetensors file. labels: replay only sequences that carry one of them, e.g. one
    domain of text.
    """

    kind: Literal["trace"]
    trace: str
    labels: tuple[str, ...] = ()

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """The trace, or the part of it that is asked for."""
        trace = open_trace(library.find("trace", self.trace, beside=beside, field="trace"))
        if not self.labels:
            return trace
        unknown = [label for label in self.labels if label not in trace.labels]
        if unknown:
            known = one_of(sorted(set(trace.labels)))
            raise InvalidInput(Problem(f"no sequence of {trace.name} is labelled {unknown[0]!r}; {known}", "labels"))
        return select_sequences(trace, np.flatnonzero(np.isin(trace.labels, self.labels)))


class BalancedRouting(Spec):
    """Synthetic: every expert equally often, the forced balance of most published training figures."""

    kind: Literal["balanced"]

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        return synthesis.balanced(geometry, rng=rng, tokens=tokens)


class PowerLawRouting(Spec):
    """Synthetic: the test pattern of published expert-kernel tables. alpha: exponent of the popularity's density."""

    kind: Literal["power_law"]
    alpha: Positive

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        return synthesis.power_law(geometry, alpha=self.alpha, rng=rng, tokens=tokens)


class LognormalRouting(Spec):
    """Synthetic: lognormal loads. sigma: standard deviation of their logs (0.6-0.9 in served DeepSeek-R1). group_share:
    share of the log-variance that the experts of one routing group have in common."""

    kind: Literal["lognormal"]
    sigma: Positive
    group_share: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        clusters = {geometry.groups: self.group_share} if self.group_share else None
        return synthesis.lognormal(geometry, sigma=self.sigma, clusters=clusters, rng=rng, tokens=tokens)


class LognormalTableRouting(Spec):
    """Synthetic: lognormal loads with the skew of a counted table. table: made by `moesim import-trace` from counts."""

    kind: Literal["lognormal_like"]
    table: str

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        table = open_load_table(library.find("trace", self.table, beside=beside, field="table"))
        fitted = synthesis.fit_lognormal(table, rng)
        return synthesis.lognormal(geometry, **fitted, rng=rng, tokens=tokens, like=table)


class BootstrapRouting(Spec):
    """Synthetic: independent tokens with counted loads. table: a load table made by `moesim import-trace`."""

    kind: Literal["bootstrap"]
    table: str

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        table = open_load_table(library.find("trace", self.table, beside=beside, field="table"))
        return synthesis.bootstrap(geometry, table=table, rng=rng, tokens=tokens)


class FittedRouting(Spec):
    """Synthetic: a model fitted to a captured trace, moved to this model's number of experts and layers. It keeps the
    trace's skew, locality in time and dependence between layers."""

    kind: Literal["fitted"]
    trace: str

    def build(self, geometry: Geometry, tokens: int, rng: np.random.Generator, beside: str) -> RouterTrace:
        """A trace of the model's geometry."""
        source = open_trace(library.find("trace", self.trace, beside=beside, field="trace"))
        # As deep as the source: replay cuts the model's layers into blocks of that depth, as it does for captures.
        return synthesis.fitted(replace(geometry, layers=min(geometry.layers, source.layers)), source=source, rng=rng)


Routing = Annotated[
    TraceRouting
    | BalancedRouting
    | PowerLawRouting
    | LognormalRouting
    | LognormalTableRouting
    | BootstrapRouting
    | FittedRouting,
    Field(discriminator="kind"),
]


class _Routed(Spec):
    routing: Routing


def routing_of(data: dict[str, object], file: str) -> Routing:
    """The ``routing`` of a scenario from its data. Raises InvalidInput."""
    return Document(file, {"routing": data}, {}, {}).check(_Routed).routing
