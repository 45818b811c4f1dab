"""From a checked serving scenario to requests and the deployments that serve them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.trace import RouterTrace
from moesim.serving.arrivals import ARRIVALS
from moesim.serving.lengths import LENGTHS
from moesim.serving.requests import Requests, closed_loop, open_loop
from moesim.serving.traces import read_requests
from moesim.spec.assembly.step import Assembly, assemble
from moesim.spec.reading.loading import Document
from moesim.spec.serving.scenario import Load, ServingScenario
from moesim.spec.step.scenario_file import read_scenario

# Tokens of routing a rank, of which the windows of simulated steps take theirs; other steps draw their own.
_POOL_TOKENS = {"simulated": 4096, "stack": 64}
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
