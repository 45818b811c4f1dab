"""The file of a serving scenario: a deployment as in any scenario, a load, and the rules of the servers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import Field

from moesim.serving.arrivals import ARRIVALS
from moesim.serving.balancers import BALANCERS
from moesim.serving.lengths import LENGTHS
from moesim.serving.policy import DP_PLACEMENTS, ORDERS, PREEMPTIONS, PRESETS, Policy
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.reading.quantities import BytesPerSecond, Seconds
from moesim.spec.step.expected import Expected
from moesim.spec.step.placement import PlacementOptions
from moesim.spec.step.routing import Routing
from moesim.spec.step.scenario import Cluster, Count, Network, Parallelism, Precision
from moesim.workload.overlap import OVERLAPS

Share = Annotated[float, Field(ge=0, le=1)]


def _closed_loop(*, in_flight: int) -> None:
    """So many requests under way at all times: the first ones at once, then one when another ends."""


def _replay(*, trace: str, speed: float = 1.0) -> None:
    """Requests from a CSV or JSON-lines file, also Azure, BurstGPT and Mooncake layouts; speed: times as recorded."""


class SharedPrefix(Spec):
    """Prompts begin with one of `groups` common texts of `tokens` tokens each, drawn evenly."""

    groups: Count
    tokens: Count


class Load(Spec):
    """What clients send. requests: how many. warmup: first ones that metrics leave out."""

    requests: Count | None = None
    arrivals: kinds(ARRIVALS | {"closed_loop": _closed_loop, "replay": _replay})
    input: kinds(LENGTHS) | None = None
    output: kinds(LENGTHS) | None = None
    shared_prefix: SharedPrefix | None = None
    warmup: Annotated[int, Field(ge=0)] = 0


class Server(Spec):
    """A stack's rules: its preset, and what deviates from it (see `moesim.serving.policy`)."""

    preset: Literal[tuple(PRESETS)]
    prefill: Literal["mixed", "first"] | None = None
    chunked: bool | None = None
    token_budget: Count | None = None
    max_sequences: Count | None = None
    order: Literal[ORDERS] | None = None
    preemption: Literal[PREEMPTIONS] | None = None
    dp_placement: Literal[DP_PLACEMENTS] | None = None
    block_tokens: Count | None = None
    kv_reserve: Share | None = None
    prefix_caching: bool | None = None
    poll_interval: Count | None = None
    hold_steps: Annotated[int, Field(ge=0)] | None = None
    draft_tokens: Annotated[int, Field(ge=0)] | None = None
    acceptance: Share | None = None
    memory_share: Share | None = None

    def policy(self) -> Policy:
        """The preset with what deviates."""
        stated = {f.name: getattr(self, f.name, None) for f in fields(Policy)}
        return replace(PRESETS[self.preset], **{name: value for name, value in stated.items() if value is not None})


class Steps(Spec):
    """How steps are priced. stack: kernel tables and a stack's fitted constants. simulated: whole steps on the network.
    windows: of the routing, that steps of a batch size go through one after another; each layer's loads of each are
    held."""

    kind: Literal["stack", "simulated"] = "stack"
    windows: Annotated[int, Field(ge=1, le=64)] = 16


class PrefillPool(Spec):
    """Servers that only compute prompts and hand the KV cache over. placement: where it differs from the others'."""

    cluster: Cluster
    parallelism: Parallelism
    placement: PlacementOptions | None = None
    server: Server
    servers: Count = 1


class Scaling(Spec):
    """How many of `servers` are up: `fewest` at first.

    One more when over `grow_at` requests wait, or over `grow_batch` are in the system, for each server; one less when
    at most `shrink_at` wait for each and those left would have fewer than `shrink_batch` each. Looked at every
    `period`. provision: until a new server has its devices; then it loads its weights, from a running server over the
    topology, or from `storage` at its bytes/s.
    """

    fewest: Count = 1
    grow_at: Annotated[float, Field(ge=0)] = 1.0
    grow_batch: Annotated[float, Field(gt=0)] | None = None
    shrink_at: Annotated[float, Field(ge=0)] = 0.0
    shrink_batch: Annotated[float, Field(gt=0)]
    period: Seconds
    provision: Seconds
    storage: BytesPerSecond | None = None


class Objective(Spec):
    """What a request must meet to count as good."""

    ttft: Seconds
    tpot: Seconds


class ServingScenario(Spec):
    """Requests in, latencies out. See docs/serving.md for a tour of the keys."""

    description: str = ""
    model: str
    cluster: Cluster
    parallelism: Parallelism
    precision: Precision
    routing: Routing
    placement: PlacementOptions
    overlap: kinds(OVERLAPS)
    network: Network = Network()
    software: str | None = None
    load: Load
    server: Server
    servers: Count = 1
    balancer: Literal[tuple(BALANCERS)] = "least_loaded"
    elastic: Scaling | None = None
    steps: Steps = Steps()
    prefill: PrefillPool | None = None
    slo: Objective | None = None
    queue_limit: Count = 20_000
    seed: Annotated[int, Field(ge=0)] = 0
    expected: Expected | None = None
