"""The scenario file: what to simulate, in the field's words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.cost.exchange import KERNELS
from moesim.hardware.precision import PRECISIONS
from moesim.network.fidelity import FIDELITIES
from moesim.spec.hardware.fabric import FabricOptions
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.step.expected import Expected
from moesim.spec.step.offload import Offload
from moesim.spec.step.placement import PlacementOptions
from moesim.spec.step.router import Capacity, RouterKind
from moesim.spec.step.routing import Routing
from moesim.spec.step.workload import Decode, Encode, Prefill
from moesim.workload.context import EXCHANGES
from moesim.workload.overlap import OVERLAPS

Count = Annotated[int, Field(ge=1, le=10**9)]
Tokens = Annotated[int, Field(ge=0, le=10**9)]
Format = Literal[tuple(PRECISIONS)]


class Cluster(Spec):
    """How many of which device. options: what the job decides about the profile's fabric, e.g. the shape of a torus."""

    hardware: str
    devices: Count
    options: FabricOptions = FabricOptions()


Axis = Literal["tp", "cp", "dp", "pp"]


class Parallelism(Spec):
    """Degrees: attention_dp × tp × cp × pp = ep × expert_tp × pp = devices / instances.

    cp: ranks that split each sequence. pp: pipeline stages. instances: equal, independent copies of the model on
    consecutive devices, each with its own sequences. order: axes from the fastest-running to the slowest.
    sequence_parallel: norms and residuals split over tp. context_exchange: how prefill passes keys and values on.
    microbatches: that a step sends through the stages, as many as stages unless stated.
    """

    attention_dp: Count = 1
    tp: Count = 1
    cp: Count = 1
    pp: Count = 1
    ep: Count = 1
    expert_tp: Count = 1
    instances: Count = 1
    order: tuple[Axis, Axis, Axis, Axis] = ("tp", "cp", "dp", "pp")
    sequence_parallel: bool = False
    context_exchange: Literal[EXCHANGES] = "ring"
    microbatches: Count | None = None


class Precision(Spec):
    """Formats by kind of tensor. Activations take the format of their weights unless stated.

    dense: weights outside the routed experts, but the router's; attention, shared_expert, dense_ffn and head deviate
    from it. router: BF16 unless stated. Weight-only formats (mxfp4, int4, int8 unless activations say int8) are
    multiplied with BF16 activations.
    """

    experts: Format
    dense: Format | None = None
    attention: Format | None = None
    shared_expert: Format | None = None
    dense_ffn: Format | None = None
    head: Format | None = None
    router: Format | None = None
    expert_activations: Format | None = None
    activations: Format | None = None
    dispatch: Format
    combine: Format
    kv: Format


class Network(Spec):
    """fidelity: how collectives share links. all_to_all: the expert-parallel kernel of dispatch and combine."""

    fidelity: Literal[tuple(FIDELITIES)] = "coflow"
    all_to_all: Literal[tuple(KERNELS)] = "nccl"


class Memory(Spec):
    """reserve: share of HBM kept for the framework, its graphs and library workspaces (engines use 0.9 by default).

    fragmentation: share of activations and dispatch buffers that the allocator loses. kv_block: tokens of a block of
    the paged KV cache; every sequence leaves part of its last one empty.
    """

    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fragmentation: Annotated[float, Field(ge=0, le=1)] = 0.0
    kv_block: Count = 1

    def shares(self) -> dict[str, float]:
        """What `moesim.workload.footprint.footprint` takes."""
        return {"reserve": self.reserve, "fragmentation": self.fragmentation, "kv_block": self.kv_block}


class Scenario(Spec):
    """One simulated step. See docs/scenarios.md for a tour of the keys. stages: layers of each pipeline stage, where
    they are not equal."""

    description: str = ""
    model: str
    cluster: Cluster
    parallelism: Parallelism
    stages: tuple[Count, ...] | None = None
    precision: Precision
    workload: Annotated[Decode | Prefill | Encode, Field(discriminator="kind")]
    routing: Routing
    placement: PlacementOptions
    overlap: kinds(OVERLAPS)
    network: Network = Network()
    memory: Memory = Memory()
    offload: Offload | None = None
    router: RouterKind | None = None
    capacity: Capacity | None = None
    software: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    expected: Expected | None = None
