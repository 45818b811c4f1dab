"""One training step as programs: a pipeline rank each, every microbatch forward and backward, then the update."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.engine.program import Program
from moesim.routing.replay import Routes
from moesim.workload.emitter import Emitter
from moesim.workload.training.chains import After, write_chains
from moesim.workload.training.exchanges import Exchanges, stage_messages
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import Span
from moesim.workload.training.layers import Layers
from moesim.workload.training.pipeline import pipeline_programs
from moesim.workload.training.routed import Draws, ExpertCosts, count_draws, expert_costs
from moesim.workload.training.schedules import BACKWARD, FORWARD, WEIGHT, Task
from moesim.workload.training.sharding import Sharding


@dataclass(frozen=True, slots=True, eq=False)
class TrainingStep:
    """A step ready to simulate. programs: [pipeline rank]. draws: routes as counts. spans: seconds and interval of each
    kind of operation, of which only the ratios mean something."""

    programs: tuple[Program, ...]
    draws: Draws | None
    spans: dict[str, Span]


def training_step(job: Job, line: Routes | None) -> TrainingStep:
    """Build the programs of one step.

    line: routes of the tokens that ranks read, as `moesim.workload.training.routed.count_draws` takes them; None for a
    dense model. Raises InvalidInput as the network does.
    """
    draws = count_draws(job, line) if line is not None else None
    costs = expert_costs(job, draws) if draws is not None else None
    spans: dict[str, Span] = {}
    common: dict = {}
    priced: dict = {}
    stages = [_Stage(job, rank, draws, costs, spans, common, priced) for rank in range(job.parallelism.pp)]
    programs = pipeline_programs(
        job.schedule,
        [stage.emit for stage in stages],
        lambda emit, rank, tasks, after: stages[rank].write(tasks, after),
        stage_messages(job, spans),
        lambda emit, rank, ended: stages[rank].finish(ended),
    )
    return TrainingStep(tuple(programs), draws, spans)


class _Stage:
    """The writer of one pipeline rank."""

    def __init__(
        self,
        job: Job,
        rank: int,
        draws: Draws | None,
        costs: ExpertCosts | None,
        spans: dict[str, Span],
        common: dict,
        priced: dict,
    ):
        self._job = job
        self._held = job.held(rank)
        exchanges = Exchanges(job, rank, draws, spans, common)
        self._sharding = Sharding(job, rank, exchanges, spans)
        self._layers = Layers(job, rank, exchanges, costs, self._sharding, spans, priced)
        self.emit = Emitter(job.stage_ranks(rank))
        self._lasting = self._sharding.prologue(self.emit)
        tasks = [task for step in job.schedule.orders[rank] for task in step]
        self._first = {_earliest(tasks, chunk) for chunk in range(len(self._held))}
        self._last = {_earliest(tasks[::-1], chunk, (BACKWARD, WEIGHT)) for chunk in range(len(self._held))}

    def write(self, tasks: tuple[Task, ...], after: tuple[After, ...]) -> tuple[After, ...]:
        """Operations of one step of the schedule."""
        chains = [
            self._layers.chain(
                task.phase,
                self._held[task.chunk],
                task.microbatch % self._job.windows,
                task in self._first,
                task in self._last,
            )
            for task in tasks
        ]
        return write_chains(self.emit, chains, after, self._lasting)

    def finish(self, ended: After) -> None:
        """Operations behind the last task."""
        self._sharding.finish(self.emit, ended, self._lasting)


def _earliest(tasks: list[Task], chunk: int, phases: tuple[str, ...] = (FORWARD,)) -> Task:
    return next(task for task in tasks if task.chunk == chunk and task.phase in phases)
