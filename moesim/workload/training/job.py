"""A training job: everything about it that stays the same from microbatch to microbatch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost.machine import Machine
from moesim.hardware.precision import Precision
from moesim.hardware.topology import Cluster
from moesim.model.architecture import Layer, MoEModel
from moesim.model.parallelism import Parallelism
from moesim.network.routes import Network
from moesim.placement.placement import Placement
from moesim.routing.dropping import Limit
from moesim.workload.training.optimizer import Optimizer
from moesim.workload.training.schedules import Schedule


@dataclass(frozen=True, slots=True)
class Formats:
    """The format of each kind of tensor. experts, dense, attention, shared_expert, router: (weights, what they are
    multiplied with) of products; dense: of dense FFNs. dispatch, combine: tokens and their gradients on the wire.
    weights: as stored. gradients: as accumulated and reduced. master_weights: None = the optimizer updates `weights`
    themselves."""

    experts: tuple[Precision, Precision]
    dense: tuple[Precision, Precision]
    attention: tuple[Precision, Precision]
    shared_expert: tuple[Precision, Precision]
    router: tuple[Precision, Precision]
    dispatch: Precision
    combine: Precision
    weights: Precision
    gradients: Precision
    master_weights: Precision | None
    optimizer_states: Precision


@dataclass(frozen=True, slots=True)
class Overlap:
    """What hides behind what, see `moesim.spec.training.scenario.TrainingOverlap`."""

    gradients: bool = True
    parameters: bool = True
    shared_expert: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A model in training on a cluster.

    stages: layers of each virtual stage, in the model's order. zero: 0 to 3. recompute: modules, as
    `moesim.workload.training.recomputation` hands them on. microbatch: sequences of `sequence` tokens that a
    data-parallel rank works on at once; microbatches: of each replica in a step. windows: distinct draws of routing.
    capacity: of experts that drop what they have no room for; its ``batch`` is a microbatch of an
    expert-parallel group.
    graphs: kernels are replayed from captured graphs, so that no launch of the host shows; ``partial``: all but those
    of the routed experts. grouped_gemm: the experts' products are one kernel (``fused``), one with the
    activation and casts between them (``fused_mlp``), or one each (``per_expert``). unfused_attention: scores are
    written to HBM.
    """

    model: MoEModel
    cluster: Cluster
    network: Network
    machine: Machine
    parallelism: Parallelism
    formats: Formats
    schedule: Schedule
    stages: tuple[int, ...]
    recompute: frozenset[str]
    optimizer: Optimizer
    overlap: Overlap
    kernel: str
    placement: Placement | None
    zero: int
    sequence_parallel: bool
    microbatch: int
    microbatches: int
    sequence: int
    mtp_layers: int = 0
    windows: int = 4
    capacity: Limit | None = None
    fidelity: str = "coflow"
    graphs: bool | str = True
    grouped_gemm: str = "fused"
    unfused_attention: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a microbatch that a context-parallel rank attends from."""
        return self.microbatch * self.sequence // self.parallelism.cp

    @property
    def owned_tokens(self) -> int:
        """Tokens of a microbatch that one rank owns around norms and experts: its tensor-parallel share."""
        return -(-self.tokens // self.parallelism.tp) if self.sequence_parallel else self.tokens

    @property
    def step_tokens(self) -> int:
        """Tokens of one step of the whole job."""
        return self.microbatches * self.microbatch * self.sequence * self.parallelism.attention_dp

    def captured(self, kind: str) -> bool:
        """Whether the kernels of a kind of operation come from captured graphs."""
        return self.graphs is True or (self.graphs == "partial" and not kind.startswith("experts"))

    def layers(self, virtual_stage: int) -> range:
        """Model layers of a virtual stage; its multi-token-prediction modules are numbered behind the last layer."""
        first = sum(self.stages[:virtual_stage])
        extra = self.mtp_layers if virtual_stage == len(self.stages) - 1 else 0
        return range(first, first + self.stages[virtual_stage] + extra)

    def layer(self, index: int) -> Layer:
        """A layer by number; a multi-token-prediction module is built like the last (DeepSeek-V3, section 2.2)."""
        return self.model.layers[min(index, len(self.model.layers) - 1)]

    def moe_row(self, index: int) -> int:
        """Row of a MoE layer in traces and placements, multi-token-prediction modules last."""
        last = len(self.model.layers)
        return self.model.moe_layers.index(index) if index < last else len(self.model.moe_layers) + index - last

    @property
    def moe_rows(self) -> int:
        """MoE layers with routing of their own."""
        last = self.model.layers[-1].experts is not None
        return len(self.model.moe_layers) + (self.mtp_layers if last else 0)

    def held(self, rank: int) -> list[int]:
        """Virtual stages that a pipeline rank holds, by chunk."""
        found = {
            chunk: position for path in self.schedule.paths for position, (r, chunk) in enumerate(path) if r == rank
        }
        return [found[chunk] for chunk in sorted(found)]

    def holders(self, virtual_stage: int) -> list[int]:
        """Pipeline ranks that hold a virtual stage: one, or two under DualPipe."""
        return sorted({path[virtual_stage][0] for path in self.schedule.paths})

    def stage_ranks(self, rank: int) -> np.ndarray:
        """[ranks of a stage] global ranks of a pipeline rank, rising."""
        return np.sort(self.parallelism.grid[rank].ravel())
