"""A model put on a cluster: everything that stays the same from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from moesim.cost.machine import Machine
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism
from moesim.network.routes import Network
from moesim.placement.placement import Placement
from moesim.workload.routers import RouterPolicy

# Kinds of weights outside the routed experts.
DENSE_KINDS = ("attention", "shared_expert", "dense_ffn", "head", "router")


@dataclass(frozen=True, slots=True)
class PrecisionPolicy:
    """The format of each kind of tensor.

    experts: weights of the routed experts; expert_activations: what they are multiplied with. dense: weights of
    attention, shared experts, dense FFNs and the head; activations: what those are multiplied with. dispatch, combine:
    tokens on the wire. kv: the cache. kinds: (weights, activations) of those of `DENSE_KINDS` that deviate. Routers run
    in BF16 with FP32 scores unless stated, as released models do. Embeddings, norms and the residual are BF16.
    """

    experts: Precision
    dense: Precision
    expert_activations: Precision
    activations: Precision
    dispatch: Precision
    combine: Precision
    kv: Precision
    kinds: Mapping[str, tuple[Precision, Precision]] = field(default_factory=dict)

    def operands(self, kind: str) -> tuple[Precision, Precision]:
        """(weights, activations) of one of `DENSE_KINDS`."""
        usual = (PRECISIONS["bf16"],) * 2 if kind == "router" else (self.dense, self.activations)
        return self.kinds.get(kind, usual)


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A model on a cluster.

    parallelism: of one instance. instances: equal, independent copies of the model on consecutive ranks (the slices of
    a pod); each has its own tokens. kernel: of dispatch and combine, a key of `moesim.cost.exchange.KERNELS`.
    placement: None when the model has no routed experts. fidelity: of the network, a key of
    `moesim.network.fidelity.FIDELITIES`. stage_layers: layers of each pipeline stage, () with one. microbatches: that
    a step sends through the stages. sequence_parallel: the residual is split over tensor-parallel ranks between blocks.
    context_exchange: how prefill passes keys and values on, one of `moesim.workload.context.EXCHANGES`. router: how
    experts are chosen. held: the half of an encoder-decoder that this step does not run, whose weights are in
    HBM too.
    """

    model: MoEModel
    cluster: Cluster
    network: Network
    machine: Machine
    parallelism: Parallelism
    precision: PrecisionPolicy
    kernel: str
    placement: Placement | None
    fidelity: str = "coflow"
    instances: int = 1
    router: RouterPolicy = field(default_factory=RouterPolicy)
    stage_layers: tuple[int, ...] = ()
    microbatches: int = 1
    sequence_parallel: bool = False
    context_exchange: str = "ring"
    held: MoEModel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step processes.

    phase: ``prefill`` or ``decode``. sequences: [attention DP rank] sequences in the step of one instance. new_tokens:
    tokens of each sequence that this step computes (1 in decode). context: tokens of each that are cached before it.
    source: tokens of an encoder that each sequence attends to. causal: tokens see only those before them; in an encoder
    they see all. apart: in decode, every new token of a sequence reads its cache by itself.
    """

    phase: str
    sequences: np.ndarray
    new_tokens: int
    context: int
    source: int = 0
    causal: bool = True
    apart: bool = False

    @property
    def readers(self) -> tuple[int, int]:
        """Of a sequence in decode: (readers of its cache, new tokens that each reader packs)."""
        return (self.new_tokens, 1) if self.apart else (1, self.new_tokens)

    @property
    def tokens(self) -> np.ndarray:
        """[attention DP rank] new tokens of the step."""
        return self.sequences * self.new_tokens
