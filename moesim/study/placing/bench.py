"""The bench that placement policies are judged on, one after the other: the same deployment, the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput
from moesim.placement.optimum import simple_bound
from moesim.placement.placement import Placement
from moesim.placement.policies import LEARNING
from moesim.routing.load import expert_load
from moesim.routing.relabel import relabel_load
from moesim.spec.assembly.placing import Site, place_experts
from moesim.spec.assembly.step import Assembly, assemble
from moesim.spec.reading.kinds import Kind
from moesim.spec.reading.loading import Document
from moesim.study.placing.migration import Migration, migration
from moesim.study.placing.workloads import Workload, Workloads
from moesim.study.step.run import Result, run_assembly


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One policy. name: as the user wrote it. kind: with its keys. results: by workload, the later part first.
    rank_load: [moe_layer, rank] tokens of the judged step. rebalance: to what it would learn next."""

    name: str
    kind: Kind
    placement: Placement
    results: dict[str, Result]
    rank_load: np.ndarray
    migration: Migration
    rebalance: Migration
    gap: float
    in_sample: float


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Places and judges one policy after the other on the same tokens."""

    document: Document
    assembly: Assembly
    site: Site
    parts: Workloads

    def place(self, kind: Kind, on: Workload) -> Placement:
        """What a policy learns from a workload."""
        try:
            return place_experts(kind, self.site, on.trace, self.load(on))
        except InvalidInput as error:
            raise self.document.locate(error, "placement") from None

    def load(self, on: Workload) -> np.ndarray:
        """Loads [layer, expert] of the model under a workload."""
        return relabel_load(expert_load(on.trace) if on.load is None else on.load, self.site.labels)

    def judge(self, name: str, kind: Kind, start: Placement) -> Judged:
        """Learn, simulate, and count what moves. start: the placement in force before."""
        placement = self.place(kind, self.parts.learned)
        results = {on.name: self.run(kind, placement, on) for on in (self.parts.judged, *self.parts.others)}
        step, instances = results[self.parts.judged.name].step, self.assembly.scenario.parallelism.instances
        rank_load = np.mean([[layer.tokens.sum(axis=1) for layer in part] for part in step.traffic], axis=0)
        again = self.place(kind, self.parts.judged) if kind.kind in LEARNING else placement
        peak = placement.rank_load(self.load(self.parts.learned)).max(axis=1)
        bound = placement.bound
        if bound is None:
            bound = simple_bound(self.load(self.parts.learned), placement.ranks, placement.slots_per_rank)
        fresh = again.rank_load(self.load(self.parts.judged))
        deployment = self.assembly.deployment
        return Judged(
            name,
            kind,
            placement,
            results,
            rank_load,
            migration(deployment, start, placement, self.site.node, instances),
            migration(deployment, placement, again, self.site.node, instances),
            gap=float((peak / bound - 1).mean()),
            in_sample=float((fresh.max(axis=1) / fresh.mean(axis=1)).mean()),
        )

    def run(self, kind: Kind, placement: Placement, on: Workload) -> Result:
        """Simulate the step under a placement, with tokens of a workload."""
        document = self.document.with_value("placement", kind.model_dump())
        model = self.assembly.deployment.model
        return run_assembly(document, assemble(document, model=model, trace=on.trace, placement=placement))
