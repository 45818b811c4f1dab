"""From a scenario's trace to the routes of its steps: what is learned from, what is replayed, what a step draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.hardware.topology import Cluster
from moesim.model.architecture import Experts, MoEModel
from moesim.model.parallelism import Parallelism
from moesim.network.routes import Network
from moesim.placement.placement import Placement
from moesim.placement.policies import LEARNING
from moesim.routing.latent import Geometry
from moesim.routing.relabel import block_labels, relabel_ids
from moesim.routing.replay import Routes, replay, split
from moesim.routing.runs import in_one_step
from moesim.routing.synthesis import balanced_routes
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly.placing import Site, arrange
from moesim.spec.reading.loading import Document
from moesim.spec.step.offload import earlier_and_later
from moesim.spec.step.scenario import Scenario
from moesim.workload.deployment import Batch, PrecisionPolicy

# Share of a trace's sequences that a load-aware placement learns from; the rest is replayed.
_LEARNED_SHARE = 0.5
_SYNTHETIC_TOKENS = (8192, 65536)  # least and most tokens of a synthetic trace


def experts_of(model: MoEModel) -> Experts | None:
    """The expert geometry of the model's MoE layers; None for a dense model."""
    return model.layers[model.moe_layers[0]].experts if model.moe_layers else None


def draw_trace(scenario: Scenario, model: MoEModel, batch: Batch, document: Document) -> RouterTrace:
    """The scenario's trace: enough that a step draws different tokens than the placement learned from, not without
    end. document: the scenario's, from which relative paths start."""
    step = int(batch.tokens.sum()) * scenario.parallelism.instances
    tokens = min(max(_SYNTHETIC_TOKENS[0], 2 * step), _SYNTHETIC_TOKENS[1])
    rng = np.random.default_rng((scenario.seed, 1))
    return scenario.routing.build(geometry_of(model), tokens, rng, document.file)


def geometry_of(model: MoEModel) -> Geometry:
    """What a trace of the model has to look like."""
    experts = experts_of(model)
    return Geometry(len(model.moe_layers), experts.routed, experts.top_k, experts.groups, experts.kept_groups)


def learned_and_replayed(scenario: Scenario, trace: RouterTrace) -> tuple[RouterTrace, RouterTrace]:
    """What the placement learns from, and what is replayed: never the same sequences when the placement uses loads."""
    if scenario.offload is not None:
        return earlier_and_later(trace)
    if scenario.placement.kind in LEARNING:
        return split(trace, _LEARNED_SHARE)
    return trace, trace


def site_of(
    scenario: Scenario,
    model: MoEModel,
    cluster: Cluster,
    network: Network,
    parallelism: Parallelism,
    precision: PrecisionPolicy,
    trace: RouterTrace,
) -> Site:
    """Where the scenario's experts are placed, with the model's expert numbers for those of the trace."""
    geometry = geometry_of(model)
    rng = np.random.default_rng((scenario.seed, 2))
    labels = block_labels(geometry.layers, trace.layers, geometry.experts, geometry.groups, rng)
    wire = (precision.dispatch, precision.combine)
    kernel = scenario.network.all_to_all
    return Site(model, geometry, cluster, network, parallelism, labels, kernel, wire, scenario.seed)


def all_choices(scenario: Scenario, site: Site, trace: RouterTrace) -> np.ndarray:
    """Experts [layer, token, k] that all decoded tokens of a trace choose, in the model's numbers."""
    geometry = site.geometry
    routes = replay(
        trace,
        moe_layers=geometry.layers,
        experts=geometry.experts,
        top_k=geometry.top_k,
        ranks=1,
        tokens_per_rank=trace.tokens,
        phase="decode",
        rng=np.random.default_rng(scenario.seed),
    )
    return relabel_ids(routes.ids, site.labels)


def draw_routes(
    scenario: Scenario, site: Site, trace: RouterTrace, batch: Batch, placement: Placement, step: int = 0
) -> Routes:
    """A step's routes: one long window for all instances, so that no two of them replay the same tokens.

    step: of a replay in order.
    """
    geometry = site.geometry
    tokens = np.tile(batch.tokens, scenario.parallelism.instances)
    if scenario.routing.kind == "balanced":  # exactly so in this step, not only over the trace
        return balanced_routes(geometry, tokens_per_rank=tokens, rng=np.random.default_rng(scenario.seed))
    # Each new token of a decoded sequence is one step of the trace on.
    runs = batch.new_tokens if batch.phase == "decode" else 1
    routes = in_one_step(
        [
            replay(
                trace,
                moe_layers=geometry.layers,
                experts=geometry.experts,
                top_k=geometry.top_k,
                ranks=tokens.size,
                tokens_per_rank=tokens // runs,
                phase=batch.phase,
                rng=np.random.default_rng(scenario.seed),
                step=step * runs + run,
            )
            for run in range(runs)
        ]
    )
    routes = replace(routes, ids=relabel_ids(routes.ids, site.labels))
    return arrange(scenario.placement, site, trace, batch, routes, placement, scenario.parallelism.instances)
