"""The file of a serving scenario: a deployment as in any scenario, a load, and the rules of the servers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from moesim.errors import InvalidInput, Problem
from moesim.routing.trace import RouterTrace
from moesim.serving.arrivals import ARRIVALS
from moesim.serving.balancers import BALANCERS
from moesim.serving.lengths import LENGTHS
from moesim.serving.policy import DP_PLACEMENTS, ORDERS, PREEMPTIONS, PRESETS, Policy
from moesim.serving.requests import Requests, closed_loop, open_loop
from moesim.serving.traces import read_requests
from moesim.spec.assembly import Assembly, assemble
from moesim.spec.expected import Expected
from moesim.spec.kinds import kinds
from moesim.spec.loading import Document, Spec
from moesim.spec.placement_options import PlacementOptions
from moesim.spec.quantities import BytesPerSecond, Seconds
from moesim.spec.routing import Routing
from moesim.spec.scenario import Cluster, Count, Network, Parallelism, Precision
from moesim.spec.scenario_file import read_scenario
from moesim.workload.overlap import OVERLAPS

Share = Annotated[float, Field(ge=0, le=1)]
# Tokens of routing a rank, of which the windows of simulated steps take theirs; other steps need none.
_POOL_TOKENS = {"simulated": 4096, "stack": 64}


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
    """How steps are priced. stack: kernel tables and a stack's fitted constants. simulated: whole steps on the network
    with routing from the trace, drawn from `windows` windows a batch size."""

    kind: Literal["stack", "simulated"] = "stack"
    windows: Count = 16


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


_DEPLOYMENT = (
    "description", "model", "cluster", "parallelism", "precision", "routing", "placement", "overlap", "network",
    "software", "seed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ServingAssembly:
    """A serving scenario ready to run. decode: the deployment that decodes; prefill: of the other pool, or None."""

    document: Document
    scenario: ServingScenario
    requests: Requests
    decode: Assembly
    prefill: Assembly | None

    @property
    def name(self) -> str:
        """`Document.name` of its file."""
        return self.document.name


def assemble_serving(name_or_path: str, changes: Iterable[str] = ()) -> ServingAssembly:
    """Read a serving scenario and build what it names. Raises InvalidInput with every problem that can be told."""
    return serving_assembly(read_scenario(name_or_path, changes))


def serving_assembly(document: Document, *, trace: RouterTrace | None = None) -> ServingAssembly:
    """`assemble_serving` for a document that is already read. trace: take it instead of the scenario's routing."""
    scenario = document.check(ServingScenario)
    degrees = scenario.parallelism
    if scenario.steps.kind == "stack" and degrees.pp * degrees.cp > 1:
        problem = "kernel tables price one stage without context parallelism; write simulated, or pp: 1 and cp: 1"
        raise document.locate(InvalidInput(Problem(problem, "steps.kind")))
    try:
        requests = _requests(scenario, document.file)
    except InvalidInput as error:
        raise document.locate(error, "load") from None
    if scenario.elastic is not None and scenario.elastic.fewest > scenario.servers:
        told = f"{scenario.elastic.fewest} are more than the {scenario.servers} servers there are; write fewer"
        raise InvalidInput(document.problem("elastic.fewest", told))
    decode = assemble(_step_document(document, {}), trace=trace, fits=False)
    prefill = None
    if scenario.prefill is not None:
        keys = ("cluster", "parallelism", "placement")
        own = {key: document.data["prefill"][key] for key in keys if key in document.data["prefill"]}
        prefill = assemble(_step_document(document, own), trace=trace, fits=False)
    return ServingAssembly(document, scenario, requests, decode, prefill)


def _step_document(document: Document, own: dict) -> Document:
    """The document of one step of the deployment: the lines of its keys stay those of the file."""
    data = {key: document.data[key] for key in _DEPLOYMENT if key in document.data}
    steps = data_steps["kind"] if isinstance(data_steps := document.data.get("steps"), dict) else "stack"
    workload = {"kind": "decode", "sequences_per_rank": _POOL_TOKENS[steps], "context": 1}
    return replace(document, data=data | own | {"workload": workload})


def _requests(scenario: ServingScenario, file: str) -> Requests:
    load, rng = scenario.load, np.random.default_rng((scenario.seed, 3))
    kind = load.arrivals.kind
    if kind == "replay":
        path = Path(load.arrivals.trace)
        beside = Path(file).parent / path
        requests = read_requests(beside if beside.exists() else path, most=load.requests, speed=load.arrivals.speed)
        return replace(requests, warmup=load.warmup)
    missing = [name for name in ("requests", "input", "output") if getattr(load, name) is None]
    if missing:
        raise InvalidInput([Problem(f"arrivals of kind {kind} need it", name) for name in missing])
    lengths = []
    for name in ("input", "output"):
        chosen = getattr(load, name)
        try:
            lengths.append(LENGTHS[chosen.kind](load.requests, rng, **chosen.options()))
        except InvalidInput as error:
            raise InvalidInput([replace(p, field=f"{name}.{p.field}") for p in error.problems]) from None
    more = {"warmup": load.warmup} | _prefixes(load, lengths[0], rng)
    if kind == "closed_loop":
        return closed_loop(*lengths, load.arrivals.in_flight, **more)
    try:
        arrival = ARRIVALS[kind](load.requests, rng, **load.arrivals.options())
    except InvalidInput as error:
        raise InvalidInput([replace(p, field=f"arrivals.{p.field}") for p in error.problems]) from None
    return open_loop(arrival, *lengths, **more)


def _prefixes(load: Load, input_len: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Hashes of the blocks that prompts share."""
    shared = load.shared_prefix
    if shared is None:
        return {}
    block = 16
    groups = rng.integers(shared.groups, size=input_len.size)
    blocks = np.minimum(shared.tokens, input_len) // block
    return {
        "prefix": tuple(
            tuple(range(g << 32, (g << 32) + n)) for g, n in zip(groups.tolist(), blocks.tolist(), strict=True)
        ),
        "block_tokens": block,
    }
