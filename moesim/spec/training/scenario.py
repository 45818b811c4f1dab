"""The file of a training scenario: one step of a training job, optimizer included."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.step.expected import Expected
from moesim.spec.step.placement import PlacementOptions
from moesim.spec.step.router import Capacity
from moesim.spec.step.routing import Routing
from moesim.spec.step.scenario import Cluster, Count, Format, Network
from moesim.workload.training.optimizer import OPTIMIZERS
from moesim.workload.training.recomputation import RECOMPUTATIONS
from moesim.workload.training.schedules import SCHEDULES

Axis = Literal["tp", "cp", "dp", "pp"]


class TrainingParallelism(Spec):
    """Degrees: dp = devices / (tp·cp·pp), replicas of the experts = devices / (pp·ep·expert_tp).

    dp: stated only to be checked. zero: what data parallelism shards: 1 optimizer states, 2 gradients too, 3 weights
    too. sequence_parallel: norms and residuals split over tp. order: axes from the fastest-running to the slowest.
    """

    tp: Count = 1
    cp: Count = 1
    pp: Count = 1
    ep: Count = 1
    expert_tp: Count = 1
    dp: Count | None = None
    zero: Annotated[int, Field(ge=0, le=3)] = 1
    sequence_parallel: bool = True
    order: tuple[Axis, Axis, Axis, Axis] = ("tp", "cp", "dp", "pp")


class TrainingPrecision(Spec):
    """Formats by kind of tensor.

    experts, dense: in which matrices are multiplied; attention and shared_expert as dense unless stated, embedding and
    head always in BF16. Activations take the format of their weights unless stated.
    dispatch, combine: tokens on the wire, and likewise their gradients on the way to and from the experts. weights: as
    stored. gradients: as accumulated and reduced. master_weights: of the optimizer, none = it updates `weights`.
    """

    experts: Format
    dense: Format
    attention: Format | None = None
    shared_expert: Format | None = None
    router: Format = "bf16"
    expert_activations: Format | None = None
    activations: Format | None = None
    dispatch: Format
    combine: Format
    weights: Format = "bf16"
    gradients: Format = "fp32"
    master_weights: Format | Literal["none"] = "fp32"
    optimizer_states: Format = "fp32"


class Training(Spec):
    """One optimizer step over `global_batch` sequences of `sequence` tokens, `microbatch` sequences at a time.

    mtp_layers: multi-token-prediction modules trained with the model. windows: distinct draws of routing that the
    microbatches take in turn.
    """

    kind: Literal["training"]
    global_batch: Count
    microbatch: Count = 1
    sequence: Count
    mtp_layers: Annotated[int, Field(ge=0, le=8)] = 0
    windows: Count = 4


class TrainingOverlap(Spec):
    """What hides behind what.

    gradients: each stage reduces its gradients while it still computes. parameters: the weights updated by ZeRO's
    shards are gathered beside the first forwards. shared_expert: it computes while tokens are dispatched.
    Forwards beside backwards are a matter of the schedule (``pairs``, DualPipe).
    """

    gradients: bool = True
    parameters: bool = True
    shared_expert: bool = False


class TrainingMemory(Spec):
    """reserve: share of HBM kept for the framework and library workspaces. fragmentation: share of activations and
    dispatch buffers that the allocator loses."""

    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fragmentation: Annotated[float, Field(ge=0, le=1)] = 0.0

    def shares(self) -> dict[str, float]:
        """What `moesim.workload.training.footprint` takes."""
        return {"reserve": self.reserve, "fragmentation": self.fragmentation}


class TrainingScenario(Spec):
    """One simulated training step. See docs/training.md for a tour of the keys.

    graphs: kernels are replayed from captured graphs; false = the host launches each, and reads the routing of every
    layer before it can go on; partial = it launches those of the routed experts alone (Megatron's scopes attn,
    moe_router, moe_preprocess). attention_kernel: unfused = products of all scores, which pass HBM. grouped_gemm: the
    experts' products are one kernel (fused_mlp: with the activation and casts between them), or one each, as
    Transformer Engine calls cuBLAS.
    """

    description: str = ""
    model: str
    cluster: Cluster
    parallelism: TrainingParallelism
    precision: TrainingPrecision
    workload: Training
    schedule: kinds(SCHEDULES)
    stages: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    recomputation: kinds(RECOMPUTATIONS)
    optimizer: kinds(OPTIMIZERS)
    overlap: TrainingOverlap = TrainingOverlap()
    routing: Routing
    placement: PlacementOptions
    capacity: Capacity | None = None
    network: Network = Network()
    memory: TrainingMemory = TrainingMemory()
    graphs: bool | Literal["partial"] = True
    grouped_gemm: Literal["fused", "fused_mlp", "per_expert"] = "fused"
    attention_kernel: Literal["fused", "unfused"] = "fused"
    software: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    expected: Expected | None = None
