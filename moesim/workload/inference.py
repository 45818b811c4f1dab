"""One inference step as programs: attention, router, dispatch, experts, shared expert, combine; layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moesim import units
from moesim.engine.program import Program
from moesim.engine.timeline import Timeline
from moesim.model.architecture import require_shapes
from moesim.placement.traffic import LayerTraffic
from moesim.routing.replay import Routes
from moesim.workload.deployment import Batch, Deployment
from moesim.workload.emitter import Emitter
from moesim.workload.local import Work
from moesim.workload.micro_batch import sum_traffic
from moesim.workload.pipeline import pipeline_programs
from moesim.workload.pricing import Ledger
from moesim.workload.rows import row
from moesim.workload.split import StepSplit, cut_batch
from moesim.workload.stage import Stage, stages_of


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step ready to simulate.

    programs: one a pipeline stage. traffic: [instance][moe_layer]. work: costs of every kind with their intervals,
    summed over the layers, each operation as long as its slowest rank. stages: in order; moe_stages: [moe_layer] index
    of its stage. rounds: how often the programs
    run the step; marks: the last operation of each round in the program of the last stage, () with one round.
    """

    programs: tuple[Program, ...]
    traffic: tuple[tuple[LayerTraffic, ...], ...]
    work: dict[str, Work]
    stages: tuple[Stage, ...] = ()
    moe_stages: tuple[int, ...] = ()
    rounds: int = 1
    marks: tuple[int, ...] = ()

    @property
    def program(self) -> Program:
        """Of the first stage, the only one without pipeline parallelism."""
        return self.programs[0]

    @property
    def most_received(self) -> int:
        """Most tokens that dispatch brings to one rank in one layer, its own included."""
        return max((int(layer.entering.max()) for part in self.traffic for layer in part), default=0)

    def seconds(self, timeline: Timeline) -> float:
        """Seconds of one step: of all there is, or with several rounds of those after the first; no round is faster
        than the busiest stream of any rank."""
        if self.rounds == 1:
            return timeline.makespan_s
        ends = [int(timeline.tracks[-1].end[mark].max()) for mark in (self.marks[0], self.marks[-1])]
        between = float(units.seconds(ends[1] - ends[0])) / (self.rounds - 1)
        return max(between, timeline.lower_bound_s() / self.rounds)


def inference_step(deployment: Deployment, batch: Batch, routes: Routes | None, overlap: Callable) -> Step:
    """Build the programs of one step on all ranks.

    routes: experts chosen by the step's tokens, in the order of the instances and their attention-DP ranks; None for a
    dense model. overlap: one of `moesim.workload.overlap.OVERLAPS`, its keys bound.
    """
    return inference_steps(deployment, batch, [routes], [overlap])[0]


def inference_steps(
    deployment: Deployment, batch: Batch, routes: Sequence[Routes | None], overlaps: Sequence[Callable]
) -> list[Step]:
    """The programs of several steps of one batch, each with its own routes and overlap; alike kernels are priced once.

    Every step carries the work of all of them.
    """
    require_shapes(deployment.model)
    ledger, stages = Ledger(), stages_of(deployment)
    return [_step(deployment, stages, batch, *each, ledger) for each in zip(routes, overlaps, strict=True)]


def _step(
    deployment: Deployment,
    stages: tuple[Stage, ...],
    batch: Batch,
    routes: Routes | None,
    overlap: Callable,
    ledger: Ledger,
) -> Step:
    placed = tuple(s.index for index in deployment.model.moe_layers for s in stages if index in s.layers)
    fewest = int(batch.sequences.min()) if batch.sequences.size else 0  # small batches make fewer micro-batches
    cut = cut_batch(batch, routes, max(1, min(deployment.microbatches, fewest)), deployment.instances)
    splits = [[StepSplit(deployment, stage, *part, ledger) for part in cut] for stage in stages]
    if len(stages) == 1:
        emit, after = Emitter(stages[0].ranks.ravel()), ()
        for split in splits[0]:
            after = row(emit, -1, split.head(), overlap(emit, split, after))
        return Step((emit.program(),), _traffic(deployment, splits), ledger.total, stages, placed)
    programs, marks = pipeline_programs(deployment, stages, [part for part, _ in cut], splits, overlap, ledger)
    return Step(programs, _traffic(deployment, splits), ledger.total, stages, placed, len(marks), marks)


def _traffic(deployment: Deployment, splits: Sequence[Sequence[StepSplit]]) -> tuple[tuple[LayerTraffic, ...], ...]:
    """[instance][moe_layer] all micro-batches together."""
    by_layer: dict[int, list[list[LayerTraffic]]] = {}
    for split in (split for stage in splits for split in stage):
        for layer, parts in split.traffic().items():
            by_layer.setdefault(layer, []).append(parts)
    return tuple(
        tuple(sum_traffic([parts[instance] for parts in by_layer[layer]]) for layer in sorted(by_layer))
        for instance in range(deployment.instances)
    )
