"""From a checked scenario to the values that the simulator runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism, for_inference
from moesim.network.routes import build_network
from moesim.placement.placement import Placement
from moesim.routing.dropping import drop_over_capacity
from moesim.routing.load import expert_load
from moesim.routing.relabel import relabel_load
from moesim.routing.replay import Routes, check_geometry
from moesim.routing.route_cache import CacheQuality
from moesim.routing.trace import RouterTrace
from moesim.spec import library
from moesim.spec.checks import check_all_to_all, check_overlap, check_pipeline
from moesim.spec.combinations import check_combinations
from moesim.spec.drawing import (
    all_choices,
    draw_routes,
    draw_trace,
    experts_of,
    learned_and_replayed,
    site_of,
)
from moesim.spec.loading import Document, parse, read
from moesim.spec.model_file import load_model
from moesim.spec.offload import OffloadJob, build_offload
from moesim.spec.parts import (
    batch_of,
    check_split,
    cluster_of,
    machine_of,
    parallelism_of,
    precision_of,
    stages_in,
)
from moesim.spec.placing import place_experts
from moesim.spec.profile import load_profile
from moesim.spec.router import router_of
from moesim.spec.scenario import Scenario
from moesim.spec.steps import part_that_runs
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.encoding import with_held
from moesim.workload.footprint import check_fits, footprint
from moesim.workload.remedies import remedies
from moesim.workload.routers import RouterPolicy
from moesim.workload.speculative import Draft, speculative_footprint
from moesim.workload.stage import one_stage


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """A scenario ready to run. routes: of the (first) step; None for a dense model. offload: steps that it replays.

    draft: what proposes tokens that a decode step checks. route_cache: how good looked-up routes are. dropped:
    [moe_layer] share of the step's choices that their experts had no room for.
    """

    name: str
    title: str
    scenario: Scenario
    deployment: Deployment
    batch: Batch
    trace: RouterTrace | None
    routes: Routes | None
    offload: OffloadJob | None = None
    draft: Draft | None = None
    route_cache: CacheQuality | None = None
    dropped: np.ndarray | None = None

    def provenance(self) -> dict[str, str]:
        """Where the inputs come from, in words."""
        machine = self.deployment.machine
        stack = f"{machine.device.name}, {machine.software or 'no stack named'}: {machine.origin}"
        words = {"cost models": stack}
        if self.trace is not None:
            kind = "synthetic" if self.trace.synthetic else "captured"
            words["routing"] = f"{self.trace.name} ({kind}): {self.trace.source}"
            if self.routes.reused and self.routes.tokens.size:
                total = self.routes.tokens.shape[1]
                words["routing"] += f"; {total - self.routes.reused:,} distinct tokens stand for the step's {total:,}"
        model, longest = self.deployment.model, self.batch.context + self.batch.new_tokens
        if model.context and longest > model.context:
            words["context"] = f"{longest:,} tokens are beyond {model.name}'s own {model.context:,}"
        return words


def read_scenario(name_or_path: str, changes: Iterable[str] = (), beside: str | None = None) -> Document:
    """The document of a shipped scenario or a file. changes: ``field=value`` texts, values in YAML. beside: the file
    that names it."""
    document = read(library.find("scenario", name_or_path, beside=beside))
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals or not field.strip():
            raise InvalidInput(f"--set {change}: write FIELD=VALUE, e.g. workload.context=8192")
        document = document.with_value(field.strip(), plain_value(text))
    return document


def plain_value(text: str) -> object:
    """One YAML value, as the command line gives it."""
    return parse(f"value: {text}", "--set").data["value"]


def assemble(
    document: Document,
    *,
    model: MoEModel | None = None,
    trace: RouterTrace | None = None,
    placement: Placement | None = None,
    fits: bool = True,
) -> Assembly:
    """Build everything a scenario names. Raises InvalidInput with every problem of the file that can be told.

    model, trace, placement: take these instead of those that the scenario names, as studies do that vary them. The
    whole trace is replayed under a placement that was learned elsewhere. fits: refuse a batch that does not fit in HBM;
    false where it is a pool of tokens that no step runs as a whole.
    """
    try:
        scenario = document.check(Scenario)
    except InvalidInput as error:
        raise InvalidInput([*error.problems, *_wrong_degrees(document)]) from None
    tell = Problems(document)
    running = (model, None)
    if model is None:
        whole = tell.attempt(lambda: load_model(scenario.model, beside=document.file), "")
        running = (whole and tell.attempt(lambda: part_that_runs(whole, scenario.workload), "")) or (None, None)
    model, held = running
    hardware = tell.attempt(lambda: load_profile(scenario.cluster.hardware, beside=document.file), "cluster")
    parallelism = tell.attempt(lambda: parallelism_of(scenario), "")
    cluster = hardware and parallelism and tell.attempt(lambda: cluster_of(scenario, hardware), "cluster")
    precision = hardware and tell.attempt(lambda: precision_of(scenario, hardware), "")
    machine = hardware and tell.attempt(lambda: machine_of(scenario, hardware), "")
    if cluster:
        tell.attempt(lambda: check_all_to_all(scenario, cluster), "network")
    if model and parallelism:
        tell.attempt(lambda: check_split(model, parallelism), "")
        stage_layers = tell.attempt(lambda: stages_in(scenario, model), "")
    tell.attempt(lambda: check_pipeline(scenario), "")
    tell.attempt(lambda: check_overlap(scenario), "")
    experts = model and experts_of(model)
    if model:
        tell.attempt(lambda: check_combinations(scenario, model), "")
    batch = model and parallelism and batch_of(scenario, parallelism, model)
    if trace is None and experts and batch:
        trace = tell.attempt(lambda: draw_trace(scenario, model, batch, document), "routing")
    tell.raise_any()

    routes, ready = None, placement
    network = tell.now(lambda: build_network(cluster), "cluster")
    if experts:
        learned, replayed = learned_and_replayed(scenario, trace) if ready is None else (trace, trace)
        tell.now(lambda: check_geometry(trace, experts.routed, experts.top_k), "routing")
        site = site_of(scenario, model, cluster, network, one_stage(parallelism), precision, trace)
        placement = ready or tell.now(lambda: place_experts(scenario.placement, site, learned), "placement")
    router, quality = RouterPolicy(), None
    if scenario.router is not None:
        chosen = experts and model.layers[model.moe_layers[0]].experts
        router, quality = tell.now(lambda: router_of(scenario.router, chosen, trace), "router")
    deployment = Deployment(
        model=model,
        cluster=cluster,
        network=network,
        machine=machine,
        parallelism=parallelism,
        precision=precision,
        kernel=scenario.network.all_to_all,
        placement=placement,
        fidelity=scenario.network.fidelity,
        instances=scenario.parallelism.instances,
        router=router,
        stage_layers=stage_layers if parallelism.pp > 1 else (),
        microbatches=scenario.parallelism.microbatches or parallelism.pp,
        sequence_parallel=scenario.parallelism.sequence_parallel,
        context_exchange=scenario.parallelism.context_exchange,
        held=held,
    )
    draft = tell.now(lambda: _draft(scenario, deployment, document), "workload.speculative")
    # What cannot fit whatever is routed is said before a token is.
    if scenario.offload is None and fits:
        needs = with_held(footprint(deployment, batch, received=0, **scenario.memory.shares()), deployment, batch)
        check_fits(
            needs if draft is None else speculative_footprint(needs, draft, batch),
            lambda: remedies(deployment, batch, 0, **scenario.memory.shares()) if held is None else (),
        )
    if experts:
        routes = tell.now(lambda: draw_routes(scenario, site, replayed, batch, placement), "routing")
    dropped = None
    if scenario.capacity is not None and routes is not None:
        limit = scenario.capacity
        routes, dropped = drop_over_capacity(routes, placement.experts, factor=limit.factor, group=limit.group)
    offload = None
    if scenario.offload is not None:
        more = range(1, scenario.offload.steps)
        steps = (routes, *(draw_routes(scenario, site, replayed, batch, placement, step) for step in more))
        offload = tell.now(
            lambda: build_offload(
                scenario.offload, deployment, batch, hardware,
                load=relabel_load(expert_load(learned), site.labels), learned=all_choices(scenario, site, learned),
                routes=steps, reserve=scenario.memory.reserve, seed=scenario.seed,
            ),
            "offload",
        )  # fmt: skip
    return Assembly(
        document.name,
        _title(scenario, model, hardware),
        scenario,
        deployment,
        batch,
        trace,
        routes,
        offload,
        draft,
        quality,
        dropped,
    )


def _wrong_degrees(document: Document) -> tuple[Problem, ...]:
    """What the degrees of a file get wrong that is no scenario for another reason; () where they cannot be read."""
    cluster, degrees = document.data.get("cluster"), document.data.get("parallelism")
    if not (isinstance(cluster, dict) and isinstance(degrees, dict)):
        return ()
    known = ("attention_dp", "tp", "cp", "pp", "ep", "expert_tp")
    whole = {name: degrees[name] for name in known if name in degrees} | {"devices": cluster.get("devices")}
    if "instances" in degrees or not all(type(value) is int and value > 0 for value in whole.values()):
        return ()
    try:
        for_inference(Parallelism(**whole))
    except InvalidInput as error:
        return document.locate(error).problems
    return ()


class Problems:
    """Collects what is wrong in independent parts of a document, so that all of it is told at once."""

    def __init__(self, document: Document):
        self._document = document
        self._found: list[Problem] = []

    def attempt(self, build: Callable, under: str) -> object | None:
        """What `build` makes, or None after noting its problems, whose fields lie below `under`."""
        try:
            return build()
        except InvalidInput as error:
            self._found += self._document.locate(error, under).problems
            return None

    def now(self, build: Callable, under: str) -> object:
        """As `attempt`, raising at once."""
        made = self.attempt(build, under)
        self.raise_any()
        return made

    def raise_any(self) -> None:
        """Raise what was found, if anything."""
        if self._found:
            raise InvalidInput(self._found)


def _title(scenario: Scenario, model: MoEModel, hardware: Hardware) -> str:
    product = hardware.title.partition(",")[0]
    return f"{model.title} {scenario.workload.kind} on {scenario.cluster.devices} × {product}"


def _draft(scenario: Scenario, deployment: Deployment, document: Document) -> Draft | None:
    """What drafts tokens; None where each step computes one."""
    speculative = getattr(scenario.workload, "speculative", None)
    if speculative is None:
        return None
    draft = speculative.build(deployment, document.file)
    if draft.deployment is not None:
        try:
            check_split(draft.deployment.model, deployment.parallelism)
        except InvalidInput as error:
            raise InvalidInput([replace(problem, field="draft.model") for problem in error.problems]) from None
    return draft
