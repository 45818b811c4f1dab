"""From a checked scenario to the values that the simulator runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.model.architecture import MoEModel
from moesim.network.routes import Network, build_network
from moesim.placement.placement import Placement
from moesim.routing.dropping import drop_over_capacity
from moesim.routing.load import expert_load
from moesim.routing.relabel import relabel_load
from moesim.routing.replay import Routes, check_geometry
from moesim.routing.route_cache import CacheQuality
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly.checked_parts import Parts, checked_parts, checked_scenario
from moesim.spec.assembly.drawing import all_choices, draw_routes, experts_of, learned_and_replayed, site_of
from moesim.spec.assembly.parts import check_split
from moesim.spec.assembly.placing import place_experts
from moesim.spec.reading.loading import Document
from moesim.spec.reading.problems import Problems
from moesim.spec.step.offload import OffloadJob, build_offload
from moesim.spec.step.router import router_of
from moesim.spec.step.scenario import Scenario
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
    [moe_layer] share of the step's choices that their experts had no room for. draw: routes of another batch of the
    same deployment, from the same trace; None for a dense model.
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
    draw: Callable[[Batch], Routes] | None = None

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
    scenario = checked_scenario(document)
    tell = Problems(document)
    parts = checked_parts(scenario, document, tell, model, trace)
    model, batch, trace = parts.model, parts.batch, parts.trace
    network = tell.now(lambda: build_network(parts.cluster), "cluster")
    experts, site, replayed = experts_of(model), None, None
    if experts:
        learned, replayed = learned_and_replayed(scenario, trace) if placement is None else (trace, trace)
        tell.now(lambda: check_geometry(trace, experts.routed, experts.top_k), "routing")
        lone = one_stage(parts.parallelism)
        site = site_of(scenario, model, parts.cluster, network, lone, parts.precision, trace)
        placement = placement or tell.now(lambda: place_experts(scenario.placement, site, learned), "placement")
    router, quality = RouterPolicy(), None
    if scenario.router is not None:
        router, quality = tell.now(lambda: router_of(scenario.router, experts, trace), "router")
    deployment = _deployment(scenario, parts, network, placement, router)
    draft = tell.now(lambda: _draft(scenario, deployment, document), "workload.speculative")
    if scenario.offload is None and fits:
        _check_even(scenario, deployment, batch, draft)
    routes = dropped = offload = draw = None
    if experts:
        draw = partial(draw_routes, scenario, site, replayed, placement=placement)
        routes = tell.now(lambda: draw(batch), "routing")
    if scenario.capacity is not None and routes is not None:
        limit = scenario.capacity
        routes, dropped = drop_over_capacity(routes, placement.experts, factor=limit.factor, group=limit.group)
    if scenario.offload is not None:
        more = range(1, scenario.offload.steps)
        steps = (routes, *(draw_routes(scenario, site, replayed, batch, placement, step) for step in more))
        offload = tell.now(
            lambda: build_offload(
                scenario.offload, deployment, batch, parts.hardware,
                load=relabel_load(expert_load(learned), site.labels), learned=all_choices(scenario, site, learned),
                routes=steps, reserve=scenario.memory.reserve, seed=scenario.seed,
            ),
            "offload",
        )  # fmt: skip
    title = _title(scenario, model, parts.hardware)
    made = (trace, routes, offload, draft, quality, dropped, draw)
    return Assembly(document.name, title, scenario, deployment, batch, *made)


def _deployment(
    scenario: Scenario, parts: Parts, network: Network, placement: Placement | None, router: RouterPolicy
) -> Deployment:
    return Deployment(
        model=parts.model,
        cluster=parts.cluster,
        network=network,
        machine=parts.machine,
        parallelism=parts.parallelism,
        precision=parts.precision,
        kernel=scenario.network.all_to_all,
        placement=placement,
        fidelity=scenario.network.fidelity,
        instances=scenario.parallelism.instances,
        router=router,
        stage_layers=parts.stage_layers if parts.parallelism.pp > 1 else (),
        microbatches=scenario.parallelism.microbatches or parts.parallelism.pp,
        sequence_parallel=scenario.parallelism.sequence_parallel,
        context_exchange=scenario.parallelism.context_exchange,
        held=parts.held,
    )


def _check_even(scenario: Scenario, deployment: Deployment, batch: Batch, draft: Draft | None) -> None:
    """Infeasible for what cannot fit whatever is routed, before a token is."""
    shares = scenario.memory.shares()
    needs = with_held(footprint(deployment, batch, received=0, **shares), deployment, batch)
    check_fits(
        needs if draft is None else speculative_footprint(needs, draft, batch),
        lambda: remedies(deployment, batch, 0, **shares) if deployment.held is None else (),
    )


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
